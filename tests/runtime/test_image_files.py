import importlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from helpers.images import COLOUR, GREY, jpeg, png
from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images import decoding as image_files
from purify_edge.images.decoding import MAX_FILE_BYTES, decode_image, read_image

GRADIENT = np.tile(np.arange(0, 252, 9, dtype=np.uint8), (28, 1))  # 28 x 28


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def saved(image: Image.Image, folder: Path, name: str = "image.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def require_writer(form: str) -> None:
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")


MODES = [
    *(("PNG", mode, 1) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(("JPEG", mode, 8) for mode in ("L", "RGB", "CMYK")),
    *(("TIFF", mode, 2) for mode in ("CMYK", "YCbCr", "RGBA", "1", "P", "L", "RGB")),
]


@pytest.mark.parametrize(("form", "mode", "tolerance"), MODES)
@pytest.mark.parametrize("contract", [GREY, COLOUR])
def test_every_mode_is_read(form: str, mode: str, tolerance: int, contract: InputContract) -> None:
    options = {"quality": 95} if form == "JPEG" else {}
    content = encoded(Image.fromarray(GRADIENT).convert("RGB").convert(mode), form, **options)
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError as error:  # Pillow 12.3 and YCbCr
        pytest.skip(f"this Pillow cannot read what it wrote: {error}")
    pixels = decode_image(content, contract, source="image")
    assert pixels.shape == (28, 28, contract.channels)
    assert pixels.dtype == np.uint8
    if mode not in ("1", "P"):  # these two cannot hold the gradient's levels
        assert np.abs(pixels[:, :, -1].astype(int) - GRADIENT).max() <= tolerance


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pixels = np.full((28, 28, 4), 255, np.uint8)
    pixels[:, 14:, 3] = 0
    read = read_image(saved(Image.fromarray(pixels), tmp_path), GREY)[:, :, 0]
    assert (read[:, :14] == 255).all()
    assert (read[:, 14:] == 0).all()


def test_a_transparent_palette_colour_is_black(tmp_path: Path) -> None:
    image = Image.new("P", (28, 28), 1)
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert (read_image(saved(image, tmp_path, transparency=1), GREY) == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (280, 56), (7, 300), (2000, 3000)])
def test_any_size_is_brought_to_the_contract(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = read_image(saved(Image.new("L", size, 77), tmp_path), GREY)
    assert pixels.shape == (28, 28, 1)
    assert (pixels == 77).all()


def test_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    checkerboard = np.indices((280, 280)).sum(axis=0) % 2 * 255
    pixels = read_image(saved(Image.fromarray(checkerboard.astype(np.uint8)), tmp_path), GREY)
    assert 120 <= pixels.min() <= pixels.max() <= 135


def test_bad_files_are_refused_with_a_reason(bad_image: tuple[Path, str]) -> None:
    path, message = bad_image
    with pytest.raises(InputError, match=message) as caught:
        read_image(path, GREY)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "absent.png", GREY)
    with pytest.raises(InputError, match=r"cannot be read \(.*[Dd]irectory"):
        read_image(tmp_path, GREY)
    with pytest.raises(InputError, match="cannot be read"):
        read_image("a\0b.png", GREY)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF"])
@pytest.mark.parametrize("contract", [GREY, COLOUR])
def test_every_format_is_read(form: str, contract: InputContract) -> None:
    options = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF", "HEIF") else {}
    require_writer(form)
    pixels = decode_image(encoded(Image.fromarray(GRADIENT), form, **options), contract, source="image")
    assert pixels.shape == (28, 28, contract.channels)
    assert np.abs(pixels[:, :, -1].astype(int) - GRADIENT).max() <= (8 if options else 0)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("white", "black", "red")]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as animation:
        assert animation.n_frames == 3
    assert (decode_image(content, GREY, source="animation") == 255).all()


@pytest.mark.parametrize("form", ["PNG", "PPM", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight_in_every_format(form: str) -> None:
    content = encoded(Image.fromarray(np.full((28, 28), 0x8040, np.uint16)), form)
    assert (decode_image(content, GREY, source="image") == 0x80).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype: type) -> None:
    content = encoded(Image.fromarray(GRADIENT.astype(dtype)), "TIFF")
    with pytest.raises(InputError, match=r"depth\.tif has 32-bit pixels, whose range is not known; convert it"):
        decode_image(content, GREY, source="depth.tif")


def test_a_heic_image_without_its_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "IMG_0001.heic"
    path.write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(2_000_000))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"IMG_0001\.heic is a HEIC image: needs 'heif': pip install"):
        read_image(path, GREY)


@pytest.mark.parametrize("brand", [b"avif", b"mif1"])
def test_an_avif_image_that_pillow_lacks_is_named(monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    """Of most AVIF images that is the first brand, of some another."""
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    content = b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0avifmif1miaf" + bytes(100)
    with pytest.raises(InputError, match=r"x is an AVIF image, which this Pillow cannot read: pip install 'Pillow>="):
        decode_image(content, GREY, source="x")


def test_an_endless_pipe_is_read_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InputError, match=r"zero has 1,001 bytes, more than 1,000"):
        read_image("/dev/zero", GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_orientation_in_exif_is_undone(form: str, orientation: int) -> None:
    upright = np.zeros((28, 28), np.uint8)
    upright[:8, :20] = 255  # of no symmetry
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    require_writer(form)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif.tobytes())
    pixels = decode_image(content, GREY, source="image")[:, :, 0]
    assert np.abs(pixels.astype(int) - upright).mean() < 12


def test_a_bundle_of_four_channels_takes_no_files() -> None:
    with pytest.raises(InputError, match=r"image\.jpg: pictures have 1 or 3 channels, the bundle takes 4"):
        decode_image(jpeg(), InputContract(channels=4, height=28, width=28), source="image.jpg")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(png(28, 28))
        file.truncate(MAX_FILE_BYTES + 1)  # takes no room on the disk
    with pytest.raises(InputError, match=r"large.png has 536,870,913 bytes, more than 536,870,912"):
        read_image(path, GREY)


def test_large_images_are_in_memory_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "LARGE_PIXELS", 100)
    inside, most = 0, 0
    fitted = image_files.fitted

    def counting(image: Image.Image, contract: InputContract) -> np.ndarray:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        result = fitted(image, contract)
        inside -= 1
        return result

    monkeypatch.setattr(image_files, "fitted", counting)
    content = encoded(Image.new("RGB", (1500, 1500)), "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode_image(content, GREY, source="x"), range(4)))
    assert most == 1


with suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
SEEDS = [
    *(encoded(Image.fromarray(GRADIENT), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")),
    *(encoded(Image.fromarray(GRADIENT).convert(mode), "TIFF", compression="tiff_lzw") for mode in ("RGBA", "CMYK")),
    *(encoded(Image.fromarray(GRADIENT), form) for form in ("AVIF", "HEIF") if form in Image.SAVE),
    encoded(Image.fromarray(GRADIENT).convert("P"), "PNG", transparency=3),
    encoded(Image.fromarray(GRADIENT.astype(np.uint16) * 257), "PNG"),
    encoded(Image.new("RGB", (60, 40), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40))]),
    jpeg(),
]
EDIT = st.tuples(
    st.sampled_from(["set", "delete", "insert", "copy"]), st.integers(0, 2**16), st.binary(min_size=1, max_size=8)
)


def damaged(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    result = bytearray(content)
    for kind, where, what in edits:
        at = where % (len(result) + 1)
        if kind == "set":
            result[at : at + len(what)] = what
        elif kind == "delete":
            del result[at : at + where % 97 + 1]
        elif kind == "insert":
            result[at:at] = what
        else:  # a part of the file again, elsewhere
            result[at:at] = result[where % 31 : where % 31 + len(what) * 5]
    return bytes(result)


def read_or_refused(content: bytes, contract: InputContract) -> None:
    try:
        pixels = decode_image(content, contract, source="fuzz")
    except InputError as error:
        assert "fuzz" in str(error)
    else:
        assert pixels.shape == (contract.height, contract.width, contract.channels)
        assert pixels.dtype == np.uint8


@settings(max_examples=400)
@given(st.sampled_from(SEEDS), st.lists(EDIT, min_size=1, max_size=6), st.sampled_from([GREY, COLOUR]))
@example(SEEDS[0], [("set", 16, b"\x7f\xff\xff\xff")], GREY)  # a PNG that claims to be wide
def test_damaged_images_are_read_or_refused_in_words(
    content: bytes, edits: list[tuple[str, int, bytes]], contract: InputContract
) -> None:
    read_or_refused(damaged(content, edits), contract)


@settings(max_examples=200)
@given(st.sampled_from([seed[:12] for seed in SEEDS] + [b""]), st.binary(max_size=400))
def test_noise_after_the_first_bytes_of_an_image_is_refused_in_words(magic: bytes, noise: bytes) -> None:
    read_or_refused(magic + noise, COLOUR)
