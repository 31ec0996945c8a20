"""purify-build in processes of its own, with the real TensorRT for RTX: killed, or two at once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from purify_edge.bundle.reader import Bundle

BUILD = "from purify_edge.build.cli import main; main()"


def start_build(bundle: Path, own_folders: Path, slowly: bool = False) -> "subprocess.Popen[str]":
    """purify-build in a process of its own, with the real TensorRT for RTX; `slowly` waits within the build."""
    wait = (
        "import time, purify_edge.build.build as building\n"
        "build = building._build\n"
        "def slow(*arguments):\n"
        "    def tell(phase, done):\n"
        "        print('building', flush=True)\n"
        "        time.sleep(0.2)\n"
        "    return build(*arguments[:-1], tell)\n"
        "building._build = slow\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", (wait if slowly else "") + BUILD, str(bundle), "--engine", "rtx", "--precision", "fp32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_killed_leaves_the_bundle_whole(unbuilt_bundle: Path, own_folders: Path, how: int) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = (unbuilt_bundle / "manifest.json").read_bytes()
    process = start_build(unbuilt_bundle, own_folders, slowly=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(how)
    _, err = process.communicate(timeout=300)
    assert process.returncode == (-how if how == signal.SIGKILL else 130), err
    assert "Traceback" not in err
    assert (unbuilt_bundle / "manifest.json").read_bytes() == before
    Bundle.open(unbuilt_bundle).verify()
    after = start_build(unbuilt_bundle, own_folders)  # the lock went with the process
    _, err = after.communicate(timeout=300)
    assert after.returncode == 0, err
    assert len(Bundle.open(unbuilt_bundle).manifest.engines) == 3


@pytest.mark.slow
def test_of_two_processes_one_builds_and_one_waits(unbuilt_bundle: Path, own_folders: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    first = start_build(unbuilt_bundle, own_folders, slowly=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    second = start_build(unbuilt_bundle, own_folders)
    outputs = [process.communicate(timeout=300) for process in (second, first)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    said = outputs[0][1]
    assert "waiting for another process that builds engines" in said
    assert (outputs[0][1] + outputs[1][1]).count("building an engine with") == 3  # each of the models once
    bundle = Bundle.open(unbuilt_bundle)
    assert sorted(entry.role for entry in bundle.manifest.engines) == ["classifier", "defended", "purifier"]
    bundle.verify()
    for entry in bundle.manifest.engines:
        bundle.read(entry.file)
