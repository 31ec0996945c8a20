"""What made a result: versions, platform, and the commit where the code runs from a checkout."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("purify-edge", "torch", "torchvision", "numpy", "safetensors")


def provenance() -> dict[str, Any]:
    """Return versions, Python, machine, time (UTC, ISO 8601), and the git commit or None."""
    return {
        "versions": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "commit": git_commit(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, `-dirty` with uncommitted changes; None outside one."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # An installed copy inside somebody else's checkout is not at that checkout's commit.
    return described.stdout.strip() if tracked.returncode == 0 else None
