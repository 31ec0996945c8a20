"""The energy counters of a PC's processor packages (RAPL), as the kernel's powercap shows them, also of AMD's.

https://docs.kernel.org/power/powercap/powercap.html: `energy_uj` goes up to `max_energy_range_uj` and begins again.
Since 2020 (CVE-2020-8694) root alone may read it.
"""

from pathlib import Path

from purify_edge.power.base import CountedMeter, EnergyCounter, number_in, word_in


def rapl_meter(root: Path) -> tuple[CountedMeter | None, str]:
    """Return the meter of all processor packages together, or why there is none; no reason where there is nothing."""
    packages = {
        folder: name
        for folder in sorted(root.glob("sys/class/powercap/intel-rapl:*"))
        if (name := word_in(folder / "name")).startswith("package")
    }
    if not packages:
        return None, ""
    name = f"{' + '.join(packages.values())} (RAPL, processor packages alone)"
    try:
        return CountedMeter(name, "cpu", [_counter(folder) for folder in packages]), ""
    except PermissionError as error:
        return None, f"RAPL: not readable: needs root, or as root: chmod a+r {error.filename}"
    except (OSError, ValueError) as error:
        return None, f"RAPL: not readable: {error}"


def _counter(folder: Path) -> EnergyCounter:
    return EnergyCounter(lambda: number_in(folder / "energy_uj") / 1e6, number_in(folder / "max_energy_range_uj") / 1e6)
