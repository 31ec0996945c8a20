"""Trees of /sys with meters of energy, and what goes with them, in small.

Names of files are those of the kernel's documentation (hwmon/ina3221, power/powercap, driver-api/thermal). Labels of
rails, and which channels are off, are those of the kernel's device trees tegra234-p3767 (Orin NX and Nano) and
tegra234-p3701 (AGX Orin); the AGX Orin's numbers, and `NC`, were published by an owner of one, as was the line in
/var/lib/nvpmodel/status, of an Orin Nano at 25 W. Zones of RAPL are those of an i7-8550U
(https://github.com/powercap/powercap/issues/3), with a second package. No tree was recorded by us.
"""

from collections.abc import Callable
from pathlib import Path

from helpers.clock import Clock
from helpers.machines import write
from purify_edge.power.base import number_in

Tree = dict[str, str]
HWMON, POWERCAP, THERMAL = "/sys/class/hwmon", "/sys/class/powercap", "/sys/class/thermal"


def channel(folder: str, number: int, label: str, millivolts: int, milliamperes: int, *, enabled: int = 1) -> Tree:
    return {
        f"{folder}/in{number}_label": f"{label}\n",
        f"{folder}/in{number}_enable": f"{enabled}\n",
        f"{folder}/in{number}_input": f"{millivolts}\n",
        f"{folder}/curr{number}_input": f"{milliamperes}\n",
    }


ORIN_NANO: Tree = {
    f"{HWMON}/hwmon0/name": "cpu_thermal\n",
    f"{HWMON}/hwmon1/name": "ina3221\n",
    **channel(f"{HWMON}/hwmon1", 1, "VDD_IN", 5056, 904),
    **channel(f"{HWMON}/hwmon1", 2, "VDD_CPU_GPU_CV", 5056, 196),
    **channel(f"{HWMON}/hwmon1", 3, "VDD_SOC", 5056, 244),
    f"{HWMON}/hwmon1/in7_label": "sum of shunt voltages\n",
    f"{HWMON}/hwmon1/in7_input": "6720\n",
    f"{HWMON}/hwmon1/curr4_input": "1344\n",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "47531\n",
    f"{THERMAL}/thermal_zone1/type": "tj-thermal\n",
    f"{THERMAL}/thermal_zone1/temp": "49312\n",
    f"{THERMAL}/thermal_zone2/type": "cv0-thermal\n",  # off: the real file gives an error when it is read
    f"{THERMAL}/thermal_zone2/temp": "\n",
    f"{THERMAL}/thermal_zone3/type": "broken\n",
    f"{THERMAL}/thermal_zone3/temp": "-256000\n",
    "/var/lib/nvpmodel/status": "pmode:0001",
    "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n",
}
AGX_ORIN: Tree = {
    f"{HWMON}/hwmon3/name": "ina3221\n",
    **channel(f"{HWMON}/hwmon3", 1, "VDD_GPU_SOC", 12008, 280),
    **channel(f"{HWMON}/hwmon3", 2, "VDD_CPU_CV", 12008, 40),
    **channel(f"{HWMON}/hwmon3", 3, "VIN_SYS_5V0", 4968, 980),
    f"{HWMON}/hwmon4/name": "ina3221\n",
    **channel(f"{HWMON}/hwmon4", 1, "NC", 0, 0),
    **channel(f"{HWMON}/hwmon4", 2, "VDDQ_VDD2_1V8AO", 4968, 80),
    **channel(f"{HWMON}/hwmon4", 3, "off", 4968, 8000, enabled=0),
}
TWO_PACKAGES: Tree = {
    f"{POWERCAP}/intel-rapl/enabled": "1\n",
    f"{POWERCAP}/intel-rapl:0/name": "package-0\n",
    f"{POWERCAP}/intel-rapl:0/energy_uj": "262143000000\n",
    f"{POWERCAP}/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl:0:0/name": "dram\n",
    f"{POWERCAP}/intel-rapl:0:0/energy_uj": "9000000\n",
    f"{POWERCAP}/intel-rapl:0:0/max_energy_range_uj": "65712999613\n",
    f"{POWERCAP}/intel-rapl:1/name": "package-1\n",
    f"{POWERCAP}/intel-rapl:1/energy_uj": "1000000\n",
    f"{POWERCAP}/intel-rapl:1/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl:2/name": "psys\n",
    f"{POWERCAP}/intel-rapl:2/energy_uj": "7000000\n",
    f"{POWERCAP}/intel-rapl:2/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl-mmio:0/name": "package-0\n",
    f"{POWERCAP}/intel-rapl-mmio:0/energy_uj": "5000000\n",
    f"{POWERCAP}/intel-rapl-mmio:0/max_energy_range_uj": "262143328850\n",
}
ENERGY = f"{POWERCAP}/intel-rapl:0/energy_uj"


def plant(root: Path, tree: Tree) -> Path:
    """Write a tree below a root folder; the root."""
    for name, content in tree.items():
        write(root, name, content)
    return root


def counting(root: Path, clock: Clock, watts: float) -> Callable[[Path], int]:
    """A `number_in` to which the first package's counter goes up with a clock, as the kernel's does."""
    file = root / ENERGY.lstrip("/")

    def read(path: Path) -> int:
        return number_in(path) + (int(clock.now_s * watts * 1e6) if path == file else 0)

    return read
