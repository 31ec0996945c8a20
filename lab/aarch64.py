"""Run the wheel on an emulated Arm processor and compare its answers with this machine's: `python -m lab.aarch64`.

Python comes from Debian, the wheel's packages come from PyPI as pip picks them for aarch64. All of it lies in a
temporary folder, needs no root, and changes nothing here. QEMU emulates the processor; PRoot hides this
machine's files.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import FOLDER
from purify_edge.errors import MissingError

NAME = "fashion-mnist"
REPOSITORY = Path(__file__).parent.parent
SUITE, PYTHON = "bookworm", "3.11"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
QEMU = "qemu-aarch64-static"
NEEDED = {"proot": "proot", QEMU: "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg"}
"""Commands, and Debian's packages that have them."""
GLIBCS = ("2_28", "2_27", "2_17")
SHORT = 32
LIMIT_S = 7200


class EmulatedArm:
    """A root folder with an Arm's Python and the wheel, and what runs in it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.root = work / "root"

    def make(self) -> None:
        """Fetch and unpack Debian's Python with all that it needs, and install the wheel with its extra `cpu`."""
        for package in self._packages():
            _run("dpkg-deb", "-x", str(package), str(self.root))
        _pip("wheel", "--no-deps", "--wheel-dir", str(self.work), str(REPOSITORY))
        (wheel,) = self.work.glob("*.whl")
        platforms = [word for glibc in GLIBCS for word in ("--platform", f"manylinux_{glibc}_aarch64")]
        target = ["--target", str(self.root / "opt/purify"), "--python-version", PYTHON, "--only-binary=:all:"]
        _pip("install", *target, *platforms, "--platform", "manylinux2014_aarch64", f"{wheel}[cpu]")

    def _packages(self) -> list[Path]:
        """Return Debian's packages, which an apt of its own fetches, without a state to begin from."""
        folder = self.work / "apt"
        (folder / "state/lists/partial").mkdir(parents=True)
        (folder / "cache/archives/partial").mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYS}] http://deb.debian.org/debian {SUITE} main\n")
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "",
        }
        apt = ["apt-get", "-q", "-y", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
        _run(*apt, "update")
        _run(*apt, "install", "--download-only", "--no-install-recommends", "python3", "libstdc++6")
        return sorted((folder / "cache/archives").glob("*.deb"))

    def command(self, name: str, *arguments: str) -> str:
        """Return what a command of the wheel prints there, as `purify-run` is `run`.

        This machine's /sys is not shown: ONNX Runtime reads it, finds another processor, and crashes.
        """
        folders = [word for folder in ("/proc", "/dev", str(self.work)) for word in ("-b", folder)]
        emulator = ["proot", "-q", str(shutil.which(QEMU)), "-r", str(self.root), *folders, "-w", "/"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/opt/purify", "HOME": "/root", "OMP_NUM_THREADS": "1"}
        return _run(*emulator, "/usr/bin/python3", *_code(name), *arguments, environment=environment)


def _code(command: str) -> list[str]:
    return ["-c", f"from purify_edge.{command}.cli import main; main()"]


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode:
        told = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{told}")
    return done.stdout


def _pip(*arguments: str) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def require_emulator() -> None:
    """Raise MissingError if this machine cannot emulate an Arm processor.

    Raises:
        MissingError: which packages it lacks.
    """
    missing = sorted(package for command, package in NEEDED.items() if not shutil.which(command))
    if missing:
        raise MissingError(
            f"emulating an Arm processor needs {', '.join(missing)}: apt-get install {' '.join(missing)}"
        )
    if not Path(KEYS).exists():
        raise MissingError(f"Debian's packages need its keys, {KEYS}: apt-get install debian-archive-keyring")


def write_pictures(folder: Path, count: int | None) -> None:
    """Write images of the golden set as PNG files, clean and adversarial ones in turn; `count` of them, or all."""
    golden = load_golden(Bundle.open(FOLDER / NAME))
    images = [
        image for pair in zip(golden["clean"].images, golden["adversarial"].images, strict=True) for image in pair
    ]
    folder.mkdir()
    for index, image_HWC in enumerate(images[:count]):
        Image.fromarray(image_HWC.squeeze()).save(folder / f"{index:04}.png")


def compare(here: str, there: str) -> tuple[int, int, float]:
    """Return how many files there are, how many got the same label, and the largest difference of a probability."""
    mine, theirs = (
        {Path(row["file"]).name: row for row in map(json.loads, text.splitlines())} for text in (here, there)
    )
    if mine.keys() != theirs.keys():
        raise SystemExit(f"{len(mine)} files were classified here, and {len(theirs)} there: not the same")
    same = sum(mine[name]["label"] == theirs[name]["label"] for name in mine)
    return len(mine), same, max(abs(mine[name]["probability"] - theirs[name]["probability"]) for name in mine)


def main(arguments: Sequence[str] | None = None) -> None:
    """Install the wheel there, run its commands, and end with 1 if a label differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"{SHORT} images, and no purify-check")
    short = parser.parse_args(arguments).short
    try:
        require_emulator()
    except MissingError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from None
    with TemporaryDirectory() as folder:
        n, same = compare_there(EmulatedArm(Path(folder)), short=short)
    if same < n:
        raise SystemExit(1)


def compare_there(arm: EmulatedArm, *, short: bool) -> tuple[int, int]:
    """Run the commands there, tell what came of each, and return how many images there were, and how many alike."""
    begun = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", flush=True)

    arm.make()
    tell(f"Python {PYTHON} for aarch64, and the wheel with [cpu]: installed")
    told = json.loads(arm.command("doctor", "--json"))
    python = next(row["value"] for row in told["findings"] if row["name"] == "Python")
    engines = [f"{row['name']} {row['version']}" for row in told["engines"] if row["works"]]
    tell(f"purify-doctor: Python {python}; {', '.join(engines)} works")
    pictures = arm.work / "pictures"
    write_pictures(pictures, SHORT if short else None)
    engine = ("--engine", "onnxruntime", "--precision", "fp32", "--json")
    asked = (NAME, str(pictures), *engine)
    there = arm.command("run", *asked)
    n, same, difference = compare(_run(sys.executable, *_code("run"), *asked), there)
    tell(f"purify-run: {same} of {n} labels as here, probabilities within {difference:.1g}")
    if not short:
        report = json.loads(arm.command("check", NAME, *engine, "--rounds", "0"))
        tell(f"purify-check {NAME}: passed, {len(report['checks'])} limits hold")
    return n, same


if __name__ == "__main__":
    main()
