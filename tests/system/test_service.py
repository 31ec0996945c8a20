"""The systemd unit of docs/running.md."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.project import REPOSITORY


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    (unit,) = re.findall(r"```ini\n(.*?)```", (REPOSITORY / "docs" / "running.md").read_text(), re.DOTALL)
    program = re.search(r"ExecStart=(\S+)", unit)
    assert program is not None
    path = tmp_path / "purify.service"
    path.write_text(unit.replace(program[1], str(Path(sys.executable).with_name(Path(program[1]).name))))
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (found.returncode, [line for line in found.stderr.splitlines() if "purify" in line]) == (0, [])
