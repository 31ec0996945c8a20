"""The machine as the probes see it: its files below a root folder, its commands, its native libraries."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from purify_edge.doctor.child import Answer, call_native, printable

COMMAND_S = 15
NATIVE_S = 120  # importing TensorRT from a cold SD card takes its time
FILE_BYTES = 1_000_000  # more than any file that we read has
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def size(number_of_bytes: float) -> str:
    """Return a size in the largest unit that fits.

    >>> size(7_990_000_000), size(512 * 1024**2)
    ('7.4 GiB', '512 MiB')
    """
    gib = number_of_bytes / 1024**3
    return f"{gib:.1f} GiB" if gib >= 1 else f"{number_of_bytes / 1024**2:.0f} MiB"


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with, for comparison; empty where there are none.

    >>> numbers("10.3.0-1+cuda12.5"), numbers("R36"), numbers("")
    ((10, 3, 0), (), ())
    """
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            found.append(int(digits))
        if digits != part:
            break
    return tuple(found)


def l4t_from_release(text: str) -> tuple[int, ...]:
    """Return the release of Jetson Linux in /etc/nv_tegra_release; empty where there is none.

    >>> l4t_from_release("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64")
    (36, 4, 3)
    """
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    return (int(found.group(1)), *numbers(found.group(2))) if found else ()


class Host:
    """The machine, with its files below `root`; a read or a command that fails in any way gives None."""

    def __init__(self, root: Path = Path("/"), *, native_s: float = NATIVE_S) -> None:
        self.root = root
        self._native_s = native_s
        self._answers: dict[tuple[str, ...], Answer] = {}

    def path(self, name: str) -> Path:
        """Return a path below the root; `name` is written as an absolute path."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """Return a file's text, even from invalid bytes, without NULs (the device tree's strings end with one)."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(FILE_BYTES).decode(errors="replace").replace("\0", "")
        except OSError:
            return None

    def exists(self, name: str) -> bool:
        """Return whether a file or folder is there; False where this user may not know."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def is_writable(self, name: str) -> bool:
        """Return whether this user may read and write a file."""
        return os.access(self.path(name), os.R_OK | os.W_OK)

    def glob(self, pattern: str) -> Iterator[Path]:
        """Yield the paths below the root that match, in order, but for those that may not be listed."""
        try:
            yield from sorted(self.root.glob(pattern.lstrip("/")))
        except OSError:
            return

    def run(self, *command: str) -> str | None:
        """Return what a command prints, if it is there and succeeds in time."""
        folders = [*os.environ.get("PATH", "").split(os.pathsep), *map(str, map(self.path, SYSTEM_FOLDERS))]
        program = shutil.which(command[0], path=os.pathsep.join(folder for folder in folders if folder))
        if program is None:
            return None
        try:
            done = subprocess.run(
                [program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None

    def native(self, function: str, *arguments: str) -> Answer:
        """Return the answer of `call_native`; each call is made once."""
        key = (function, *arguments)
        if key not in self._answers:
            self._answers[key] = call_native(function, *arguments, limit_s=self._native_s)
        return self._answers[key]

    @cached_property
    def l4t(self) -> tuple[int, ...] | None:
        """Return the release of Jetson Linux (L4T), such as (36, 4, 3); None where this is no Jetson.

        A container may have neither the file nor the package: then the device tree tells a Jetson, of release ().
        """
        release = l4t_from_release(self.read("/etc/nv_tegra_release") or "")
        release = release or numbers(self.package_version("nvidia-l4t-core").partition("-")[0])
        if release:
            return release
        compatible = self.read("/proc/device-tree/compatible") or ""
        return () if "nvidia,tegra" in compatible else None

    @property
    def is_jetson(self) -> bool:
        """Return whether this is a Jetson."""
        return self.l4t is not None

    @cached_property
    def in_container(self) -> bool:
        """Return whether this is a Docker or Podman container; other kinds go unnoticed."""
        return any(self.exists(name) for name in ("/.dockerenv", "/run/.containerenv"))

    def package_version(self, package: str) -> str:
        """Return the version of an installed Debian package; empty where it is not installed."""
        answer = self.run("dpkg-query", f"--admindir={self.path('/var/lib/dpkg')}", "-W", "-f=${Version}", package)
        return printable(answer or "")

    @cached_property
    def compute_capabilities(self) -> tuple[tuple[int, int], ...]:
        """Return those of the GPUs that the CUDA driver shows, in its order; (8, 7) for an Orin."""
        devices = self.native("driver").result.get("devices", [])
        return tuple((device["major"], device["minor"]) for device in devices)
