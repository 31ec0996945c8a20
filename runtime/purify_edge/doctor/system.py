"""The probe of the system: its name, Python, the environment, what every command needs, and meters of energy."""

import platform
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from purify_edge.doctor.child import first_line, printable
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.libraries import explain
from purify_edge.power.meters import kernel_meters

_system = partial(Finding, "system")

OLDEST, NEWEST = (3, 10), (3, 13)
BASE_PACKAGES = {"numpy": "numpy", "PIL": "Pillow", "msgspec": "msgspec"}
"""Module -> the package on PyPI. click and rich run this very command."""
SYSTEM_TENSORRT = "/usr/lib/python3*/dist-packages/tensorrt"


def probe_system(host: Host) -> Iterator[Finding]:
    """Look at system, interpreter, environment, the packages that every command needs, and meters of energy."""
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.read("/etc/os-release") or "", re.MULTILINE)
    name = first_line(release.group(1)) if release else platform.system()
    parts = (name, platform.release(), " ".join(platform.libc_ver()), "in a container" if host.in_container else "")
    yield _system("system", ", ".join(filter(None, parts)))
    yield _interpreter()
    yield _environment(host)
    for module, package in BASE_PACKAGES.items():
        answer = host.native("module", module)
        if not answer.failure:
            yield _system(package, answer.result["version"])
            continue
        reason, remedy = explain(answer.text, host)
        remedy = remedy or f"pip install --force-reinstall {package}"
        yield _system(package, "cannot be imported", Status.PROBLEM, reason, remedy)
    yield from _meters(host)


def _interpreter() -> Finding:
    version = sys.version_info[:2]
    bits = 64 if sys.maxsize > 2**32 else 32
    value = f"{platform.python_version()}, {platform.python_implementation()}, {platform.machine()}"
    if bits == 32:
        return _system("Python", value, Status.PROBLEM, "32 bits; no engine has a package for that")
    if not OLDEST <= version <= NEWEST:
        reason = f"purify-edge is tested with {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
        return _system("Python", value, Status.WARNING, reason)
    if platform.libc_ver()[0] != "glibc" and sys.platform == "linux":
        return _system("Python", value, Status.WARNING, "no glibc, as on Alpine: most engines have no package for that")
    return _system("Python", value)


def _environment(host: Host) -> Finding:
    """Find out whether the environment hides the TensorRT that apt installed, as most virtual environments do."""
    version = ".".join(map(str, sys.version_info[:2]))
    theirs = [path.parts[-3].removeprefix("python") for path in host.glob(SYSTEM_TENSORRT)]
    value, shows_system = _kind_of_environment()
    if theirs and version not in theirs and "3" not in theirs:
        reason = f"apt's TensorRT is for Python {theirs[-1]}, this is {version}"
        remedy = f"python{theirs[-1]} -m venv --system-site-packages purify && . purify/bin/activate"
        return _system("environment", value, Status.WARNING, reason, remedy)
    if theirs and not shows_system:
        reason = "apt's TensorRT cannot be seen from it"
        remedy = f"/usr/bin/python{version} -m venv --system-site-packages purify && . purify/bin/activate"
        return _system("environment", value, Status.WARNING, reason, remedy)
    return _system("environment", value)


def _kind_of_environment() -> tuple[str, bool]:
    """Return what kind it is, and whether it shows the packages of the system's Python."""
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


def _meters(host: Host) -> Iterator[Finding]:
    """Yield the meters by which purify-check measures energy, and those that it cannot read."""
    found = kernel_meters(host.root)
    gpu = {} if any(meter.part == "board" for meter in found.meters) else host.native("energy").result
    names = [*(meter.name for meter in found.meters), *filter(None, [gpu.get("meter")])]
    reasons = [*found.not_readable, *filter(None, [gpu.get("reason")])]
    if names:
        yield _system("meter of energy", printable("; ".join(names)))
    for reason in reasons:
        yield _system("meter of energy", "not readable", Status.ABSENT, printable(reason))
    if not names and not reasons:
        reason = "neither a Jetson's INA3221, nor RAPL, nor NVML; purify-check measures no energy"
        yield _system("meter of energy", "none", Status.ABSENT, reason)
