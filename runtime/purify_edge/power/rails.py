"""The power monitors of a Jetson: the rails of its INA3221, as the kernel's hwmon shows them.

https://docs.kernel.org/hwmon/ina3221.html: `inN_label`, `inN_input` in mV, `currN_input` in mA, for channels 1 to 3.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from purify_edge.power.base import SampledMeter, number_in, word_in

INPUT_RAILS = ("VDD_IN", "5V_IN", "POM_5V_IN")
"""Rails through which all of a module's power comes: Orin NX and Orin Nano; older modules."""


class Rail(NamedTuple):
    """A rail and the files of its voltage, in mV, and its current, in mA."""

    label: str
    voltage: Path
    current: Path

    def watts(self) -> float:
        """Return the power on it now.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        return number_in(self.voltage) * number_in(self.current) / 1e6


def rails_meter(root: Path) -> tuple[SampledMeter | None, str]:
    """Return the meter of a Jetson's rails, or why there is none; no reason where there is no power monitor.

    It is the rail that feeds the module, where the board has one, else the sum of all rails.
    """
    failures: list[str] = []
    rails = [rail for rail in _rails(root) if _works(rail, failures)]
    main = [rail for rail in rails if rail.label in INPUT_RAILS][:1]
    chosen = main or rails
    if not chosen:
        return None, f"INA3221: not readable: {failures[0]}" if failures else ""
    what = "" if main else ", the sum of all rails: no rail feeds the whole module"
    name = f"{' + '.join(rail.label for rail in chosen)} (INA3221{what})"
    return SampledMeter(name, "board", partial(_sum, chosen)), ""


def _rails(root: Path) -> Iterator[Rail]:
    """Yield the channels that have a label and are not switched off."""
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if word_in(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = word_in(folder / f"in{channel}_label")
            if label not in ("", "NC") and word_in(folder / f"in{channel}_enable") != "0":
                yield Rail(label, folder / f"in{channel}_input", folder / f"curr{channel}_input")


def _works(rail: Rail, failures: list[str]) -> bool:
    try:
        rail.watts()
    except (OSError, ValueError) as error:
        failures.append(f"{rail.label}: {error}")
        return False
    return True


def _sum(rails: list[Rail]) -> float:
    return sum(rail.watts() for rail in rails)
