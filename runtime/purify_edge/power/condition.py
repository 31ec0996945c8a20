"""What a measurement of energy depends on: a Jetson's power mode, a GPU's limit, and temperatures."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from purify_edge.power.base import number_in, word_in
from purify_edge.power.nvml import NvmlGpu

COMMAND_S = 15
MODE = re.compile(r"NV Power Mode:\s*(\S+)")
LIKELY_C = range(-40, 200)  # zones that are off give all kinds of numbers


def power_mode(root: Path = Path("/")) -> str:
    """Return the name of a Jetson's power mode, its number where the name is not known; empty where there is none.

    /var/lib/nvpmodel/status has the number, as `pmode:0001`, and /etc/nvpmodel.conf the names; `nvpmodel -q` has both.
    """
    number = re.match(r"pmode:(\d+)", word_in(root / "var/lib/nvpmodel/status"))
    if number:
        names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", word_in(root / "etc/nvpmodel.conf"))
        mode = int(number.group(1))
        return {int(known): str(name) for known, name in names}.get(mode, f"mode {mode}")
    program = shutil.which("nvpmodel", path=str(root / "usr/sbin"))
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = MODE.search(done.stdout)
    return found.group(1) if found else ""


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Return the temperature of each thermal zone that can be read, in degrees Celsius."""
    found: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        try:
            value = number_in(zone / "temp") / 1000
        except (OSError, ValueError):  # of what is switched off
            continue
        if int(value) in LIKELY_C:
            found.setdefault(word_in(zone / "type") or zone.name, value)
    return found


def condition(gpu: NvmlGpu | None, root: Path = Path("/")) -> dict[str, Any]:
    """Return what is known now: `mode`, `temperatures_c`, and of a GPU `gpu_limit_w`."""
    found: dict[str, Any] = {"mode": power_mode(root), "temperatures_c": temperatures_c(root)}
    if gpu is not None:
        try:
            found["temperatures_c"][gpu.name] = gpu.temperature_c()
            found["gpu_limit_w"] = gpu.limit_w()
        except OSError:  # a Jetson's, say; its thermal zones have it
            pass
    return {name: value for name, value in found.items() if value}
