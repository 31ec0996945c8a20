"""The manifest: what a bundle holds, with the size and SHA-256 of every file."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from purify_edge.errors import BundleError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

Role = Literal["purifier", "classifier", "defended", "served"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Resizing = Literal["stretch", "shortest", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Size = Annotated[int, Meta(ge=1)]
Scaled = Annotated[int, Meta(ge=1, le=2**20)]
Level = Annotated[int, Meta(ge=0, le=255)]
SplitName = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]*$")]
ROLES = frozenset(get_args(Role)) - {"served"}
"""The roles that every bundle has, and that this package runs."""
Pixels = Literal["float32", "uint8"]
"""What a served graph takes: float32 `[N, C, H, W]` in [0, 1], or bytes `[N, H, W, C]`."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the bundle; `path` is relative to it, with forward slashes."""

    path: str
    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or set(self.path) & set("\\:\0") or not path.parts:
            raise ValueError(f"the path {self.path!r} leads outside the bundle")


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture of any size becomes the pixels of the input contract, as the classifier was trained.

    The picture is scaled, then cut or filled to height x width about its centre. `stretch` scales it to `scaled`
    without regard to its proportions, `shortest` until it just covers `scaled`, `letterbox` until it just fits into it.
    `scaled` is height and width in pixels; None for those of the contract. Mean and standard deviation stay inside the
    classifier.

    `fill` is the colour, red, green and blue, of what the picture does not reach. Libraries round in two ways what
    is no whole number of pixels: the side that follows from the other (`rounding`), and where to begin to cut
    (`centre`; halves go to the even neighbour, or down).
    """

    resize: Resizing = "stretch"
    scaled: tuple[Scaled, Scaled] | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    fill: tuple[Level, Level, Level] = (0, 0, 0)
    rounding: Literal["down", "nearest"] = "down"
    centre: Literal["nearest", "down"] = "nearest"

    def __post_init__(self) -> None:
        if not self.antialias and self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"{self.interpolation} without antialiasing is not known here, only bilinear and nearest")

    def for_size(self, old: tuple[int, int], new: tuple[int, int]) -> "Preprocessing":
        """Return the same for a contract of another height and width; the share that is cut off stays."""
        if self.scaled is None or old == new:
            return self
        height, width = (max(1, round(side * to / of)) for side, of, to in zip(self.scaled, old, new, strict=True))
        return msgspec.structs.replace(self, scaled=(height, width))


class InputContract(msgspec.Struct, frozen=True, kw_only=True):
    """What every model of the bundle takes: float32 `[N, channels, height, width]` in [0, 1].

    `colour` is the order of three channels.
    """

    channels: Annotated[int, Meta(ge=1, le=4)]
    height: Size
    width: Size
    layout: Literal["NCHW"] = "NCHW"
    colour: Literal["RGB"] = "RGB"
    dtype: Literal["float32"] = "float32"
    low: float = 0.0
    high: float = 1.0
    preprocessing: Preprocessing = Preprocessing()

    @property
    def way(self) -> str:
        """Return a description of how a picture becomes the input.

        >>> InputContract(channels=3, height=224, width=224).way
        'stretched to 224 x 224, bilinear'
        """
        how, size = self.preprocessing, f"{self.height} x {self.width}"
        high, wide = how.scaled or (self.height, self.width)
        verb = {"stretch": "stretched to", "shortest": "scaled to cover", "letterbox": "scaled to fit into"}[how.resize]
        parts = [f"{verb} {high} x {wide}"]
        if how.resize == "letterbox":
            parts.append(f"filled with {' '.join(map(str, how.fill))}")
        if how.resize == "shortest" or (high, wide) != (self.height, self.width):
            parts.append(f"centre {size}")
        return ", ".join([*parts, how.interpolation + ("" if how.antialias else " without antialiasing")])


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An ONNX graph. `defended` is purifier and classifier composed, `served` what other programs run.

    That one takes `pixels`, and gives probabilities, suspicion and the purified images; see docs/serving.md. With
    `spare_clean` it has the rule of `purify_edge.pipeline.sparing`.

    `flop` counts the floating-point operations of one image in convolutions and matrix products, a multiplication and
    an addition as two; None where it was not counted.
    """

    role: Role
    precision: Precision
    file: FileEntry
    flop: int | None = None
    pixels: Pixels = "float32"
    spare_clean: bool = False


class EngineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A TensorRT engine, rebuildable from its model; never loaded unless its fingerprint fits the device."""

    role: Role
    precision: Precision
    builder: Literal["tensorrt", "tensorrt_rtx"]
    file: FileEntry
    fingerprint: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what it is the engine of: role, precision and builder."""
        return self.role, self.precision, self.builder


class GoldenEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The golden set's file, its images a split, and the attack that made the adversarial ones.

    `resized` tells from what size and how, where the images are not of the size that the run was trained on. `files`
    holds image files, see `purify_edge.bundle.golden_files`; None in bundles from before there were any.
    """

    file: FileEntry
    splits: Annotated[dict[SplitName, Size], Meta(min_length=1)]
    attack: str
    resized: str = ""
    files: FileEntry | None = None


Score = Literal["logit-change", "confident-change"]
"""How suspicion is scored, see `purify_edge.pipeline.suspicion`; the first is that of older bundles."""


class BenignChange(msgspec.Struct, frozen=True, kw_only=True):
    """How many of `n` golden images are called suspicious after a change that is no attack, by PyTorch."""

    change: str
    n: Size
    flagged: Annotated[float, Meta(ge=0, le=1)]


class SuspicionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The suspicion score above which an image is called suspicious; see `purify_edge.pipeline.suspicion`.

    `n` clean images set it so that a new one of their kind exceeds it with a chance of `false_positive_rate` at most,
    and after each of the changes of `benign` with one of `benign_rate` at most; that is None in bundles from before
    this was asked. `images` tells where they came from. Of clean images of another kind any number may exceed it.
    """

    threshold: Annotated[float, Meta(ge=0)]
    false_positive_rate: Annotated[float, Meta(gt=0, lt=1)]
    n: Size
    images: str
    score: Score = "logit-change"
    benign_rate: Annotated[float, Meta(gt=0, lt=1)] | None = None
    benign: tuple[BenignChange, ...] = ()


class SpareEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The change of the logits up to which an image may keep its own answer; see `purify_edge.pipeline.sparing`.

    `n` clean images, from `images`, set it so that a new one of their kind exceeds it with a chance of `rate` at most.
    """

    threshold: Annotated[float, Meta(ge=0)]
    rate: Annotated[float, Meta(gt=0, lt=1)]
    n: Size
    images: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of manifest.json.

    `report` is the report as JSON, `pages` the same for people; `integrations` are files for other runtimes. `sbom`
    tells in CycloneDX what the bundle is made of; None in bundles from before there was one. `failed` names
    the limits that the bundle broke when it was exported; `suspicion` and `spare` are None where there were too few
    images to calibrate them, and in bundles from before they were.
    """

    schema_version: int
    name: str
    created: str
    producer: dict[str, str]
    input: InputContract
    class_names: Annotated[tuple[str, ...], Meta(min_length=2)]
    models: Annotated[tuple[ModelEntry, ...], Meta(min_length=1)]
    engines: tuple[EngineEntry, ...] = ()
    golden: GoldenEntry
    provenance: dict[str, Any]
    report: FileEntry | None = None
    pages: tuple[FileEntry, ...] = ()
    integrations: tuple[FileEntry, ...] = ()
    sbom: FileEntry | None = None
    failed: tuple[str, ...] = ()
    suspicion: SuspicionEntry | None = None
    spare: SpareEntry | None = None

    def __post_init__(self) -> None:
        keys = [(model.role, model.precision) for model in self.models]
        if len(set(keys)) < len(keys):
            raise ValueError("a model is listed twice")
        for precision in {precision for _, precision in keys}:
            missing = ROLES - {role for role, other in keys if other == precision}
            if missing:
                raise ValueError(f"no {precision} model for {', '.join(sorted(missing))}")

    @property
    def kept(self) -> tuple[FileEntry, ...]:
        """Return every file but the engines, which are built again where one is damaged."""
        others = (self.golden.file, self.golden.files, self.report, self.sbom)
        models = (model.file for model in self.models)
        return (*models, *filter(None, others), *self.pages, *self.integrations)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Return every file."""
        return (*self.kept, *(engine.file for engine in self.engines))


class _Version(msgspec.Struct):
    schema_version: int


def read_manifest(path: Path) -> tuple[Manifest, bytes]:
    """Return the manifest in a file, and the bytes that it was read from.

    Raises:
        BundleError: the file cannot be read or is too large; see `parse_manifest`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(
            f"{path.parent} is not a bundle: {MANIFEST} cannot be read ({error.strerror}); "
            "expected a folder that purify-export wrote"
        ) from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes; export the bundle again")
    return parse_manifest(content, source=str(path)), content


def parse_manifest(content: bytes, *, source: str) -> Manifest:
    """Return the manifest that a JSON text holds; `source` names the text in errors.

    Raises:
        BundleError: not JSON, of a newer schema, incomplete, or a path leads outside the bundle.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            advice = "upgrade purify-edge" if version > SCHEMA_VERSION else "export it again with purify-export"
            raise BundleError(
                f"{source} has schema version {version}, this purify-edge reads {SCHEMA_VERSION}; {advice}"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{source} is not a purify-edge manifest: {error}; copy the bundle again, or export it again"
        ) from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
