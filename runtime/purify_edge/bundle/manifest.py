"""The manifest: what a bundle holds, with the size and SHA-256 of every file."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from purify_edge.errors import BundleError

SCHEMA_VERSION = 1

Role = Literal["purifier", "classifier", "defended"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Size = Annotated[int, Meta(ge=1)]
SplitName = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]*$")]
ROLES = frozenset(get_args(Role))


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
    without regard to its proportions, `shortest` until its shorter side has the smaller number of `scaled`, `letterbox`
    until it fits into height x width, the rest filled with grey, `fill`. `scaled` is height and width in pixels; None
    for those of the contract. Mean and standard deviation stay inside the classifier.
    """

    resize: Literal["stretch", "shortest", "letterbox"] = "stretch"
    scaled: tuple[Size, Size] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    antialias: bool = True
    fill: Annotated[int, Meta(ge=0, le=255)] = 114


class InputContract(msgspec.Struct, frozen=True, kw_only=True):
    """What every model of the bundle takes: float32 `[N, channels, height, width]` in [0, 1], in the order RGB."""

    channels: Annotated[int, Meta(ge=1, le=4)]
    height: Size
    width: Size
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"
    low: float = 0.0
    high: float = 1.0
    preprocessing: Preprocessing = Preprocessing()


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An ONNX graph. `defended` is purifier and classifier composed.

    `flop` counts the floating-point operations of one image in convolutions and matrix products, a multiplication and
    an addition as two; None where it was not counted.
    """

    role: Role
    precision: Precision
    file: FileEntry
    flop: int | None = None


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


class SuspicionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The suspicion score above which an image is called suspicious; see `purify_edge.pipeline.suspicion`.

    `n` clean images set it so that a new one of their kind exceeds it with a chance of `false_positive_rate` at most;
    `images` tells where they came from. Of clean images of another kind any number may exceed it.
    """

    threshold: Annotated[float, Meta(ge=0)]
    false_positive_rate: Annotated[float, Meta(gt=0, lt=1)]
    n: Size
    images: str
    score: Literal["logit-change"] = "logit-change"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of manifest.json.

    `report` is the report as JSON, `pages` the same for people. `failed` names the limits that the bundle broke when
    it was exported; `suspicion` is None where there were too few images to calibrate it, and in bundles from before it
    was.
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
    failed: tuple[str, ...] = ()
    suspicion: SuspicionEntry | None = None

    def __post_init__(self) -> None:
        keys = [(model.role, model.precision) for model in self.models]
        if len(set(keys)) < len(keys):
            raise ValueError("a model is listed twice")
        for precision in {precision for _, precision in keys}:
            missing = ROLES - {role for role, other in keys if other == precision}
            if missing:
                raise ValueError(f"no {precision} model for {', '.join(sorted(missing))}")


class _Version(msgspec.Struct):
    schema_version: int


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
