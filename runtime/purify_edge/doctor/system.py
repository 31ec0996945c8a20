"""The probes of Python and of the system below it: versions, environment, packages, disk, memory."""

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.libraries import explain
from purify_edge.doctor.text import first_line, printable, size

_python = partial(Finding, "python")
_system = partial(Finding, "system")

OLDEST, NEWEST = (3, 10), (3, 13)
BASE_PACKAGES = {"numpy": "numpy", "PIL": "Pillow", "msgspec": "msgspec"}
"""Module -> the package on PyPI. click and rich run this very command."""
LITTLE_DISK_BYTES = 1024**3
LITTLE_MEMORY_BYTES = 1024**3
MAKE_SWAP = (
    "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
)
SYSTEM_TENSORRT = "/usr/lib/python3*/dist-packages/tensorrt"


def probe_python(host: Host) -> Iterator[Finding]:
    """The interpreter, its environment, and the packages that every command needs."""
    yield _interpreter()
    yield _environment(host)
    for module, package in BASE_PACKAGES.items():
        outcome = host.native("module", module)
        if not outcome.failure:
            yield _python(package, outcome.result["version"])
            continue
        reason, remedy = explain(outcome.text, host)
        remedy = remedy or f"pip install --force-reinstall {package}"
        yield _python(package, "cannot be imported", Status.PROBLEM, reason, remedy)


def _interpreter() -> Finding:
    version = sys.version_info[:2]
    bits = 64 if sys.maxsize > 2**32 else 32
    value = f"{platform.python_version()}, {platform.python_implementation()}, {platform.machine()}"
    if bits == 32:
        return _python("Python", value, Status.PROBLEM, "32 bits; no engine has a package for that")
    if not OLDEST <= version <= NEWEST:
        reason = f"purify-edge is tested with {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
        return _python("Python", value, Status.WARNING, reason)
    if platform.libc_ver()[0] != "glibc" and sys.platform == "linux":
        return _python("Python", value, Status.WARNING, "no glibc, as on Alpine: most engines have no package for that")
    return _python("Python", value)


def _environment(host: Host) -> Finding:
    """A virtual environment hides the TensorRT that apt installed, unless it was made to show the system's packages."""
    version = ".".join(map(str, sys.version_info[:2]))
    theirs = [path.parts[-3].removeprefix("python") for path in host.glob(SYSTEM_TENSORRT)]
    value, shows_system = _kind_of_environment()
    if theirs and version not in theirs and "3" not in theirs:
        reason = f"apt's TensorRT is for Python {theirs[-1]}, this is {version}"
        remedy = f"python{theirs[-1]} -m venv --system-site-packages purify && . purify/bin/activate"
        return _python("environment", value, Status.WARNING, reason, remedy)
    if theirs and not shows_system:
        reason = "apt's TensorRT cannot be seen from it"
        remedy = f"/usr/bin/python{version} -m venv --system-site-packages purify && . purify/bin/activate"
        return _python("environment", value, Status.WARNING, reason, remedy)
    return _python("environment", value)


def _kind_of_environment() -> tuple[str, bool]:
    """What kind it is, and whether it shows the packages of the system's Python."""
    prefix = Path(sys.prefix)
    if (prefix / "conda-meta").is_dir():
        return f"conda, {prefix}", False
    if sys.prefix == sys.base_prefix:
        of_the_system = prefix in (Path("/usr"), Path("/usr/local"))
        return f"none, {prefix}", of_the_system
    try:
        config = (prefix / "pyvenv.cfg").read_text(errors="replace").lower()
    except OSError:
        config = ""
    shows = re.search(r"^include-system-site-packages\s*=\s*true", config, re.MULTILINE) is not None
    from_system = Path(sys.base_prefix) == Path("/usr")
    return f"virtual, {prefix}{', with system site-packages' if shows else ''}", shows and from_system


def probe_system(host: Host) -> Iterator[Finding]:
    """Operating system, container, memory, swap, disk."""
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.read("/etc/os-release") or "", re.MULTILINE)
    name = first_line(release.group(1)) if release else platform.system()
    libc = " ".join(platform.libc_ver())
    yield _system("system", ", ".join(part for part in (name, platform.release(), libc) if part))
    if host.in_container:
        yield _system("container", "yes")
    yield from _memory(host)
    for label, folder in (("disk, here", Path()), ("disk, temporary", None)):
        yield _disk(label, folder)


def _memory(host: Host) -> Iterator[Finding]:
    kilobytes = {
        key: int(number) for key, number in re.findall(r"^(\w+):\s+(\d+) kB", host.read("/proc/meminfo") or "", re.M)
    }
    if "MemAvailable" not in kilobytes:
        yield _system("memory", "unknown", Status.WARNING, "/proc/meminfo does not tell it")
        return
    free, total = kilobytes["MemAvailable"] * 1024, kilobytes.get("MemTotal", 0) * 1024
    shared = ", shared with the GPU" if host.is_jetson else ""
    value = f"{size(free)} free of {size(total)}{shared}"
    if free < LITTLE_MEMORY_BYTES:
        remedy = "sudo systemctl isolate multi-user.target  # ends the desktop" if host.is_jetson else ""
        yield _system("memory", value, Status.WARNING, "building an engine takes 1 GiB and more", remedy)
    else:
        yield _system("memory", value)
    swap = kilobytes.get("SwapTotal", 0) * 1024
    if host.is_jetson and swap == 0 and not host.in_container:
        reason = "building an engine may need more memory than there is"
        yield _system("swap", "none", Status.WARNING, reason, MAKE_SWAP)
    else:
        yield _system("swap", size(swap) if swap else "none")


def _disk(label: str, folder: Path | None) -> Finding:
    """Free space; `None` is the folder for temporary files, which finding out may fail."""
    try:
        folder = Path(tempfile.gettempdir()) if folder is None else folder.absolute()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = printable(error.strerror or str(error))
        remedy = "export TMPDIR=FOLDER" if label.endswith("temporary") else "cd FOLDER"
        return _system(label, "cannot be used", Status.PROBLEM, reason, remedy)
    value = f"{size(free)} free in {folder}"
    if free < LITTLE_DISK_BYTES:
        return _system(label, value, Status.WARNING, "a bundle with engines, and their building, need 1 GiB", "df -h")
    return _system(label, value)


def installed(*names: str) -> dict[str, str]:
    """Of the named distributions those that are installed, with their versions, from metadata alone."""
    found = {}
    for name in names:
        try:
            found[name] = printable(metadata.version(name) or "unknown")
        except Exception:  # damaged metadata raise many things; PackageNotFoundError is the usual one
            continue
    return found
