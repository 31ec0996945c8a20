"""How to build an engine: what a user may ask of a builder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from purify_edge.errors import InputError

BATCH = (1, 16, 64)
MAX_BATCH = 2**16
MAX_WORKSPACE_MIB = 2**20  # 1 TiB
MAX_OPTIMIZATION_LEVEL = 5
FLAGS = ("workspace_mib", "optimization_level", "dla_core", "version_compatible", "hardware_compatible")
"""The options other than the batch and the GPU that shape an engine."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of a build; None and False leave it to the builder.

    Raises:
        InputError: a value that no builder takes.
    """

    batch: tuple[int, int, int] = BATCH  # smallest, usual and largest; the engine is tuned for the usual one
    workspace_mib: int | None = None  # scratch memory that a layer may take
    optimization_level: int | None = None  # 0 (fast build) to 5 (fast engine)
    timing_cache: Path | None = None  # a file in which timings are kept between builds
    compute_capabilities: tuple[str, ...] = ()  # of the GPUs to build for (TensorRT for RTX), `8.6` say
    dla_core: int | None = None  # the deep learning accelerator; layers that it cannot run fall back to the GPU
    version_compatible: bool = False  # the engine also loads in later versions of TensorRT
    hardware_compatible: bool = False  # the engine also runs on other GPUs, of Ampere and later

    def __post_init__(self) -> None:
        least, usual, most = self.batch
        if not 1 <= least <= usual <= most <= MAX_BATCH:
            raise InputError(
                f"batch {least},{usual},{most}: expected 1 <= MIN <= OPT <= MAX <= {MAX_BATCH}, 1,16,64 say"
            )
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MAX_WORKSPACE_MIB:
            raise InputError(f"workspace {self.workspace_mib}: expected 1 to {MAX_WORKSPACE_MIB} MiB")
        if self.dla_core is not None and self.dla_core < 0:
            raise InputError(f"DLA core {self.dla_core}: expected 0 or more")
        level = self.optimization_level
        if level is not None and not 0 <= level <= MAX_OPTIMIZATION_LEVEL:
            raise InputError(f"optimisation level {level}: expected 0 to {MAX_OPTIMIZATION_LEVEL}")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"[1-9]\d?\.\d", capability):
                raise InputError(f"compute capability {capability!r}: expected MAJOR.MINOR, 8.6 say")
        if self.dla_core is not None and least != most:
            raise InputError(f"batch {least},{usual},{most}: a DLA takes one batch size only, expected 1,1,1 say")

    def flags(self) -> dict[str, Any]:
        """Return what else than the batch and the GPU shapes the engine; part of its fingerprint."""
        values = {name: getattr(self, name) for name in FLAGS}
        return {name: value for name, value in values.items() if value is not None and value is not False}  # 0 counts

    @classmethod
    def from_fingerprint(cls, batch: tuple[int, int, int], flags: Mapping[str, Any]) -> "BuildOptions":
        """Return the options that an engine was built with, to build it again.

        Raises:
            InputError: not options of this purify-edge.
        """
        unknown = [name for name in flags if name not in FLAGS]
        if unknown:  # a manifest may say anything
            raise InputError(f"the engine's flags cannot be read: {unknown[0]!r} is none of {', '.join(FLAGS)}")
        try:
            return msgspec.convert({"batch": batch, **flags}, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"the engine's flags cannot be read: {error}") from error
