"""Pictures as programs hold them: PIL images, frames, lists of them, tensors; brought to a bundle's input contract."""

import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError, reason
from purify_edge.images.decoding import MAX_PIXELS, picture, require_channels
from purify_edge.images.fitting import fitted


class ArrayLike(Protocol):
    """What gives an array of itself, such as a PyTorch tensor on the CPU."""

    def __array__(self) -> NDArray[Any]:
        """Return it as an array."""


Pictures = Image.Image | NDArray[np.generic] | ArrayLike | Sequence["Pictures"]
"""A PIL image; a frame, uint8 `[H, W]` or `[H, W, C]`; frames `[N, H, W, C]`; floats `[C, H, W]` or `[N, C, H, W]`; or
a list of such."""

RGB = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
"""The places of red, green, blue, and of a fourth channel, in frames of so many channels in the order BGR."""


def prepared(pictures: Pictures, contract: InputContract, *, bgr: bool = False) -> NDArray[np.generic]:
    """Return pictures of any size as `as_batch` takes them: uint8 `[N, H, W, C]`; floats stay floats `[N, C, H, W]`.

    An array of the contract's size, and floats of any, are taken for prepared: they are not resized again.

    Args:
        pictures: in the order RGB, grey where they have no or one channel; a fourth channel of frames is left out.
        contract: the bundle's C, H and W, and how a picture becomes that.
        bgr: frames and floats come in the order BGR, as OpenCV gives them; PIL images do not.

    Raises:
        InputError: nothing like that, or none.
    """
    if isinstance(pictures, Image.Image):
        if bgr:
            raise InputError("a PIL image is RGB by itself: leave bgr=True out, or pass the array")
        return picture(pictures, contract)[None]
    if isinstance(pictures, list | tuple):
        return _together([prepared(each, contract, bgr=bgr) for each in pictures])
    array = _array(pictures)
    if array.dtype == np.uint8:
        return _frames(array, contract, bgr=bgr)
    array = array[None] if array.ndim == 3 else array
    return array[:, RGB[array.shape[1]]] if bgr and array.ndim == 4 and array.shape[1] in RGB else array


def _array(pictures: object) -> NDArray[np.generic]:
    if not hasattr(pictures, "__array__"):
        raise InputError(
            f"expected a numpy array, a PIL image, a tensor or a list of them, got {type(pictures).__name__}; "
            "PIL.Image.open reads a file"
        )
    try:
        return np.asarray(pictures)
    except Exception as error:  # tensors on a GPU, of bfloat16, that need gradients: each has an error of its own
        raise InputError(f"the {type(pictures).__name__} gives no array: {reason(error)}") from error


def _together(batches: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    kinds = {(batch.dtype, batch.shape[1:]) for batch in batches}
    if len(kinds) != 1:
        found = ", ".join(sorted(f"{dtype} {list(shape)}" for dtype, shape in kinds)) or "none"
        raise InputError(f"expected a list of pictures that are all frames or all floats of one shape, got {found}")
    return np.concatenate(batches)


def _frames(frames: NDArray[Any], contract: InputContract, *, bgr: bool) -> NDArray[np.uint8]:
    """Return a frame, or frames `[N, H, W, C]`, as uint8 `[N, H, W, C]` of the contract."""
    frames = frames[:, :, None] if frames.ndim == 2 else frames
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.shape[1:] == (contract.height, contract.width, contract.channels):
        return frames[..., RGB[contract.channels]] if bgr and contract.channels in RGB else frames
    if frames.ndim != 4 or 0 in frames.shape or frames.shape[3] not in (1, 3, 4):
        hint = "; a tensor [C, H, W] is one after .permute(1, 2, 0)" if 3 in frames.shape[1:2] else ""
        shape = list(frames.shape)
        raise InputError(f"expected frames, uint8 [N, H, W, C] with a C of 1, 3 or 4, got {shape}{hint}")
    return np.stack([fitted_frame(frame, contract, bgr=bgr, source="a frame") for frame in frames])


def fitted_frame(frame: NDArray[np.uint8], contract: InputContract, *, bgr: bool, source: str) -> NDArray[np.uint8]:
    """Return a frame of any size as uint8 `[H, W, C]` of the contract; `source` is the name that errors give it.

    Raises:
        InputError: it is too large, or the contract has neither 1 nor 3 channels.
    """
    require_channels(contract, source)
    if frame.shape[0] * frame.shape[1] > MAX_PIXELS:
        raise InputError(f"{source} has more than {MAX_PIXELS:,} pixels; scale it down")
    return fitted(image_of(frame, bgr=bgr), contract)


def image_of(frame: NDArray[np.uint8], *, bgr: bool) -> Image.Image:
    """Return a frame, grey or of 1, 3 or 4 channels, in RGB; a fourth channel is left out."""
    if frame.ndim == 2 or frame.shape[2] == 1:
        return Image.fromarray(frame.reshape(frame.shape[:2])).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(frame[:, :, 2::-1] if bgr else frame[:, :, :3]))


def png_of(image_HWC: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of an image, grey where it has one channel."""
    buffer = io.BytesIO()
    Image.fromarray(image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC).save(buffer, "PNG")
    return buffer.getvalue()
