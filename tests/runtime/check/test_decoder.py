"""The golden set's files find another decoder, another resampler, another order of channels."""

import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from helpers.images import COLOUR, jpeg
from purify_edge.bundle.golden_files import GoldenFiles, encode_files, load_files
from purify_edge.bundle.manifest import FileEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.check.decoder import decoder_checks
from purify_edge.errors import BundleError
from purify_edge.files import file_sha256

torch = pytest.importorskip("torch")
from purify_export.images import files as exporter  # noqa: E402

LARGE = msgspec.structs.replace(COLOUR, height=224, width=224)


def photographs(side: int) -> Any:
    """Smooth colours with edges, uint8 `[N, 3, side, side]`."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (exporter.FILES, 3, 7, 7), dtype=np.uint8)
    images = [
        Image.fromarray(block.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BICUBIC) for block in blocks
    ]
    pixels = np.stack(images)
    pixels[:, side // 3 : side // 2, side // 4 :] = 255 - pixels[:, side // 3 : side // 2, side // 4 :]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def bundle_of(bundle: Bundle, contract: Any, content: bytes) -> Bundle:
    """The bundle with this zip in it, as taking such images."""
    path = bundle.path / "golden-files.zip"
    path.write_bytes(content)
    entry = FileEntry(path=path.name, size_bytes=len(content), sha256=file_sha256(path))
    golden = msgspec.structs.replace(bundle.manifest.golden, files=entry)
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, input=contract, golden=golden))


@pytest.fixture(params=[COLOUR, msgspec.structs.replace(COLOUR, channels=1), LARGE], ids=["28", "grey", "224"])
def bundle(request: pytest.FixtureRequest, bundle_copy: Path) -> Bundle:
    contract = request.param
    images = photographs(contract.height)[:, : contract.channels]
    made = exporter.golden_files(images, contract)
    assert made is not None
    assert len(made.files) == 16
    assert len(encode_files(made)) < 1e6
    return bundle_of(Bundle.open(bundle_copy), contract, encode_files(made))


def test_the_files_are_of_several_kinds_and_odd_sizes_larger_than_the_input(bundle: Bundle) -> None:
    golden, kinds = load_files(bundle), set()
    assert golden is not None
    for content in golden.files.values():
        with Image.open(io.BytesIO(content)) as image:
            kinds.add((image.format, "progressive" in image.info, exporter.ORIENTATION in image.getexif()))
            assert image.width % 2 == image.height % 2 == 1
            assert image.width > bundle.manifest.input.width
    assert kinds >= {("PNG", False, False), ("JPEG", False, False), ("JPEG", True, False), ("JPEG", False, True)}


def test_the_exporters_own_decoder_passes(bundle: Bundle) -> None:
    largest, mean = decoder_checks(bundle)
    assert (largest.value, mean.value, largest.passed, mean.passed) == (0, 0, True, True)
    assert largest.name == "largest difference of pixels of 16 image files from the exporter's, in levels of 255"


def other_filter(monkeypatch: pytest.MonkeyPatch, to: Image.Resampling) -> None:
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *_, **__: resize(self, size, to))


def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Image.Image.resize

    def resized(self: Image.Image, size: tuple[int, int], *how: Any, **__: Any) -> Image.Image:
        return resize(self, size, *how, box=(1, 1, self.width, self.height))

    monkeypatch.setattr(Image.Image, "resize", resized)


def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from purify_edge.check import decoder

    right = decoder.decode_image
    monkeypatch.setattr(decoder, "decode_image", lambda *given, **more: right(*given, **more)[:, ::-1, ::-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: other_filter(patch, Image.Resampling.NEAREST),
        lambda patch: other_filter(patch, Image.Resampling.BICUBIC),
        lambda patch: other_filter(patch, Image.Resampling.BOX),
        shifted,
        swapped,
    ],
    ids=["nearest", "bicubic", "box", "shifted", "swapped"],
)
def test_another_resampler_fails(bundle: Bundle, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    assert not all(check.passed for check in decoder_checks(bundle))


def test_another_decoder_of_jpeg_that_rounds_otherwise_passes(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level up or down for every fifth pixel."""
    from purify_edge.check import decoder

    right, rng = decoder.decode_image, np.random.default_rng(0)

    def other(*given: Any, **more: Any) -> Any:
        image = right(*given, **more).astype(int)
        return (image + rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 0, 1], image.shape)).clip(0, 255).astype(np.uint8)

    monkeypatch.setattr(decoder, "decode_image", other)
    assert all(check.passed for check in decoder_checks(bundle))


def zip_of(content: bytes, count: int = 1) -> bytes:
    return encode_files(GoldenFiles({"a.jpg": content}, np.zeros((count, 28, 28, 3), np.uint8)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", "does not hold the golden files"),
        (zip_of(jpeg(), 2), "does not hold the golden files"),
        (encode_files(GoldenFiles({}, np.zeros((0, 28, 28, 3), np.uint8))), "there is nothing but pixels.raw"),
        (zip_of(bytes(65_000_000)), "unpacks to more than 64,000,000 bytes"),
    ],
)
def test_damaged_files_are_refused(bundle_copy: Path, content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_files(bundle_of(Bundle.open(bundle_copy), COLOUR, content))


def test_bundles_from_before_have_no_such_check(bundle_copy: Path) -> None:
    opened = Bundle.open(bundle_copy)
    golden = msgspec.structs.replace(opened.manifest.golden, files=None)
    assert list(decoder_checks(Bundle(opened.path, msgspec.structs.replace(opened.manifest, golden=golden)))) == []


def test_the_files_are_zipped_alike_each_time() -> None:
    assert zip_of(jpeg()) == zip_of(jpeg())
    assert zipfile.ZipFile(io.BytesIO(zip_of(jpeg()))).namelist() == ["a.jpg", "pixels.raw"]
