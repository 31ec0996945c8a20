"""The arithmetic of a training: what the recipe asks for, where the device has it."""

import platform
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]


def precision_on(device: "torch.device", wanted: Precision) -> Precision:
    """Return the precision of a training's convolutions: the recipe's, or float32 where bfloat16 is emulated.

    Emulated bfloat16 is several times slower than float32.
    """
    return wanted if wanted == "float32" or has_bfloat16(device) else "float32"


def has_bfloat16(device: "torch.device") -> bool:
    """Return whether the device has instructions for bfloat16: AVX512-BF16 or AMX on x86, oneDNN's on Arm."""
    import torch  # here, so that a recipe can be read without it

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
