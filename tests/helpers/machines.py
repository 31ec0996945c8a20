"""What real devices have in their files and print, and a root folder made of it.

The lines of /etc/nv_tegra_release were copied from devices by their owners and published; searching GitHub for the
GCID of one finds several of each. That of 5.1.2 stands beside `apt-cache show nvidia-jetpack` of the same device in
build_cuda113.sh of a fork of https://github.com/JingwenWang95/DSP-SLAM, that of 6.2.1 beside model and
`nvpmodel -q`. What `nvpmodel -q` prints, a line with the mode's name and one with its number, and the format of
/etc/nvpmodel.conf are described in NVIDIA's Jetson Linux Developer Guide, "Supported Modes and Power Efficiency",
https://docs.nvidia.com/jetson/archives/r36.4.3/DeveloperGuide/SD/PlatformPowerAndPerformance.html, and in the skill
jetson-customize-nvpmodel of https://github.com/NVIDIA/skills; names and numbers of modes are those of the device.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from purify_edge.doctor.host import Host

UBUNTU = 'PRETTY_NAME="Ubuntu {version} LTS"\nNAME="Ubuntu"\nID=ubuntu\n'
MORE = """# KERNEL_VARIANT: oot
TARGET_USERSPACE_LIB_DIR=nvidia
TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia
"""


@dataclass(frozen=True)
class Jetson:
    """A device: /etc/nv_tegra_release, model, `nvpmodel -q`, /etc/nvpmodel.conf, what the doctor makes of it."""

    release: str
    model: str
    power: str
    modes: str
    ubuntu: str
    l4t: tuple[int, ...]
    jetpack: str


JETSONS = {
    "JetPack 5.1.2": Jetson(
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
        "DATE: Tue Aug  1 19:57:35 UTC 2023\n",
        "Jetson-AGX",
        "NV Power Mode: MODE_30W_ALL\n3\n",
        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_30W_ALL >\n",
        "20.04.6",
        (35, 4, 1),
        "5.1",
    ),
    "JetPack 6.0": Jetson(
        "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64, "
        "DATE: Fri Jul 19 23:24:25 UTC 2024\n" + MORE,
        "NVIDIA Jetson AGX Orin Developer Kit",
        "NV Power Mode: MAXN\n0\n",
        "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n",
        "22.04.4",
        (36, 3, 0),
        "6.0",
    ),
    "JetPack 6.2.1": Jetson(
        "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, "
        "DATE: Thu Sep 18 22:54:44 UTC 2025\n" + MORE,
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "NV Power Mode: 25W\n1\n",
        "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "22.04.5",
        (36, 4, 7),
        "6.2.1",
    ),
    "JetPack 7.2.1": Jetson(
        "# R39 (release), REVISION: 2.1, GCID: 46758480, BOARD: generic, EABI: aarch64, "
        "DATE: Fri Aug 7 05:54:22 AM UTC 2026\n" + MORE,
        "NVIDIA Jetson Orin Nano Developer Kit",
        "NV Power Mode: MAXN_SUPER\n2\n",
        "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "24.04.3",
        (39, 2, 1),
        "7.2.1",
    ),
}


def write(root: Path, name: str, content: str | bytes) -> Path:
    """A file below a root folder; `name` is written as an absolute path."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_command(root: Path, name: str, script: str) -> None:
    """A command in a root folder's /usr/sbin."""
    path = write(root, f"/usr/sbin/{name}", f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def write_package(root: Path, name: str, version: str) -> None:
    """An installed Debian package, for dpkg-query to find."""
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    for folder in ("info", "updates"):
        (status.parent / folder).mkdir(exist_ok=True)
    entry = (
        f"Package: {name}\nStatus: install ok installed\nMaintainer: NVIDIA Corporation\nArchitecture: arm64\n"
        f"Version: {version}\nDescription: {name}\n\n"
    )
    with status.open("a") as file:
        file.write(entry)


def jetson_root(root: Path, device: Jetson) -> Host:
    """The device as a root folder, with nvidia-jetpack installed, and its host."""
    write(root, "/etc/nv_tegra_release", device.release)
    write(root, "/etc/os-release", UBUNTU.format(version=device.ubuntu))
    write(root, "/etc/nvpmodel.conf", device.modes)
    write(root, "/proc/device-tree/model", f"{device.model}\0")
    write_command(root, "nvpmodel", f"cat <<'EOF'\n{device.power}EOF")
    return Host(root)
