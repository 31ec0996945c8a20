"""Which meters of energy this machine has, and why others cannot be read."""

from pathlib import Path
from typing import NamedTuple

from purify_edge.power.base import Meter
from purify_edge.power.nvml import NvmlGpu, gpu_meter
from purify_edge.power.rails import rails_meter
from purify_edge.power.rapl import rapl_meter

ROOT = Path("/")


class FoundMeters(NamedTuple):
    """Meters, and a line for each that is there and cannot be read."""

    meters: tuple[Meter, ...] = ()
    not_readable: tuple[str, ...] = ()


def kernel_meters(root: Path = ROOT) -> FoundMeters:
    """Return what the kernel shows in files: the rails of a Jetson, else the processor packages of a PC."""
    found: list[tuple[Meter | None, str]] = [rails_meter(root)]
    if found[0] == (None, ""):
        found = [rapl_meter(root)]
    return FoundMeters(
        tuple(meter for meter, _ in found if meter is not None), tuple(reason for _, reason in found if reason)
    )


def find_meters(gpu: NvmlGpu | None, root: Path = ROOT) -> FoundMeters:
    """Return the meters for what runs here, some of it on a GPU where one is given.

    A board's own meter has the GPU in it, so the GPU is read separately only where there is none.
    """
    found = kernel_meters(root)
    if gpu is None or any(meter.part == "board" for meter in found.meters):
        return found
    meter, reason = gpu_meter(gpu)
    return FoundMeters(
        (*found.meters, meter) if meter else found.meters,
        (*found.not_readable, reason) if reason else found.not_readable,
    )
