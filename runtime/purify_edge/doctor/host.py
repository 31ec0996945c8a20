"""The machine as the probes see it: its files below a root folder, its commands, its native libraries."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from purify_edge.doctor.child import Outcome, call_native
from purify_edge.doctor.l4t import l4t_from_package, l4t_from_release
from purify_edge.doctor.text import printable

COMMAND_S = 15
NATIVE_S = 120  # importing TensorRT from a cold SD card takes its time
FILE_BYTES = 1_000_000  # more than any file that we read has
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Host:
    """The machine. A read or a command that fails gives None, whatever the failure.

    Args:
        root: where `/etc`, `/proc`, `/sys`, `/dev` and `/usr` are looked for.
        native_s: how long one look at a native library may take, in seconds.
    """

    def __init__(self, root: Path = Path("/"), *, native_s: float = NATIVE_S) -> None:
        self.root = root
        self._native_s = native_s
        self._outcomes: dict[tuple[str, ...], Outcome] = {}

    def path(self, name: str) -> Path:
        """A path below the root; `name` is written as an absolute one."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """A file's text, whatever bytes it holds, without NULs (the device tree's strings end with one)."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(FILE_BYTES).decode(errors="replace").replace("\0", "")
        except OSError:
            return None

    def exists(self, name: str) -> bool:
        """Whether a file or folder is there; not where that may not be known."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def is_writable(self, name: str) -> bool:
        """Whether this user may read and write a file."""
        return os.access(self.path(name), os.R_OK | os.W_OK)

    def glob(self, pattern: str) -> Iterator[Path]:
        """The paths below the root that match, in order; those that may not be listed are left out."""
        try:
            yield from sorted(self.root.glob(pattern.lstrip("/")))
        except OSError:
            return

    def run(self, *command: str) -> str | None:
        """What a command prints, if it is there and succeeds in time."""
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

    def native(self, function: str, *arguments: str) -> Outcome:
        """See `call_native`; each call is made once."""
        key = (function, *arguments)
        if key not in self._outcomes:
            self._outcomes[key] = call_native(function, *arguments, limit_s=self._native_s)
        return self._outcomes[key]

    @cached_property
    def l4t(self) -> tuple[int, ...] | None:
        """The release of Jetson Linux (L4T), (36, 4, 3) say; None where this is no Jetson.

        From /etc/nv_tegra_release, else from the package nvidia-l4t-core. In a container with neither, from
        nothing but the device tree: then ().
        """
        release = l4t_from_release(self.read("/etc/nv_tegra_release") or "")
        release = release or l4t_from_package(self.package_version("nvidia-l4t-core"))
        if release:
            return release
        compatible = self.read("/proc/device-tree/compatible") or ""
        return () if "nvidia,tegra" in compatible else None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson."""
        return self.l4t is not None

    @cached_property
    def in_container(self) -> bool:
        """Whether this is a Docker or Podman container; other kinds go unnoticed."""
        return any(self.exists(name) for name in ("/.dockerenv", "/run/.containerenv"))

    def package_version(self, package: str) -> str:
        """The version of an installed Debian package; empty where it is not installed."""
        answer = self.run("dpkg-query", f"--admindir={self.path('/var/lib/dpkg')}", "-W", "-f=${Version}", package)
        return printable(answer or "")

    @cached_property
    def compute_capabilities(self) -> tuple[tuple[int, int], ...]:
        """Of the GPUs that the CUDA driver shows, in its order; (8, 7) for an Orin."""
        devices = self.native("driver").result.get("devices", [])
        return tuple((device["major"], device["minor"]) for device in devices)
