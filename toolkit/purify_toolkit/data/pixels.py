"""Pixels: 8-bit images and float images in [0, 1], and how many of them to handle at once."""

import torch
from torch import Tensor

BATCH_PIXELS = 500 * 28 * 28
GPU_BATCHES = 8  # so many of these at once keep a GPU busy, which a small batch leaves waiting for the next call


def batch_size(images: Tensor, device: torch.device | None = None) -> int:
    """Return how many images `[N, C, H, W]` to attack at once: fewer where they are large, for memory's sake.

    The device is where they will be attacked, if not where they are; of the images only the shape counts.
    """
    batches = GPU_BATCHES if (device or images.device).type == "cuda" else 1
    return max(1, batches * BATCH_PIXELS // (images.shape[2] * images.shape[3]))


def to_8bit(images: Tensor, *, clean: Tensor | None = None, epsilon: float | Tensor = 1.0) -> Tensor:
    """Round images in [0, 1] to uint8, as a file or a camera would carry them.

    With `clean` (uint8) and `epsilon`, the rounded image still lies within epsilon of the clean one:
    rounding alone would leave the ball by up to half a grey level.
    """
    rounded = (images * 255).round()
    if clean is not None:
        # A hair is added so that 8/255 * 255 counts as the 8 levels it stands for.
        levels = torch.floor(torch.as_tensor(epsilon, device=images.device) * 255 + 1e-4)
        rounded = torch.clamp(rounded, clean - levels, clean + levels)
    return rounded.clamp(0, 255).to(torch.uint8)


def to_float(images_u8: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Turn uint8 `[N, C, H, W]` into float32 in [0, 1], channels last in memory, on `device`."""
    return images_u8.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
