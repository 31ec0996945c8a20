"""What happens to a camera's run in months: it is unplugged, the disk is full, the clock is set back or forth."""

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers.fixtures import Run, Start
from helpers.processes import fill_the_disk, json_lines
from helpers.streams import serving
from helpers.stub_libraries import Compile, needs_a_compiler

ENGINE = ("--engine", "onnxruntime", "--precision", "fp32")
COMMAND = (*ENGINE, "--raw", "28x28", "-")
FRAME = np.full((28, 28, 3), 90, np.uint8).tobytes()
HOUR_S = 3600

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int error = real(clock, now);
    const char *flag = getenv("CLOCK_FLAG");
    if (clock == CLOCK_REALTIME && flag && !access(flag, F_OK)) now->tv_sec += atoi(getenv("CLOCK_STEP"));
    return error;
}
"""
"""The clock of the day, which steps once a file is there; the one that only goes on is left as it is."""


@pytest.fixture
def frames(tmp_path: Path) -> Callable[[int], Path]:
    """A file of so many frames."""

    def write(count: int) -> Path:
        path = tmp_path / "frames.rgb"
        path.write_bytes(FRAME * count)
        return path

    return write


def test_a_camera_that_is_unplugged_for_good_ends_the_run_with_all_lines_written(
    run: Run, bundle_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    out = tmp_path / "out.jsonl"
    with serving(refused=(1, 2, 3, 4, 5, 6)) as url:
        code, printed, err = run("purify-run", bundle_path, *ENGINE, url, "--reconnect", "1.5", "--json", "--out", out)
    assert code == 1, err
    assert f"{url} was lost, and not back within 1.5 s (" in printed
    assert "Traceback" not in err
    assert out.read_text() == printed
    *good, last = json_lines(printed)
    assert good
    assert all("error" not in line for line in good)
    assert "was lost" in last["error"]


def test_a_full_disk_ends_the_run_names_the_file_and_costs_one_line(
    run: Run, bundle_path: Path, tmp_path: Path, frames: Callable[[int], Path]
) -> None:
    out = tmp_path / "out.jsonl"
    command = ("purify-run", bundle_path, *COMMAND, "--json", "--out", out)
    with frames(40).open("rb") as stdin:
        code, printed, err = run(*command, stdin=stdin, preexec_fn=partial(fill_the_disk, 1500))
    assert code == 2
    assert f"Error: {out}: File too large" in err
    assert "Traceback" not in err
    whole = out.read_text().count("\n")
    assert 0 < whole < 40
    assert len(json_lines(printed)) in (whole, whole + 1)
    with frames(3).open("rb") as stdin:  # there is room again
        code, _, err = run(*command, stdin=stdin)
    assert code == 0, err
    assert len(json_lines(out.read_text())) == whole + 3


@needs_a_compiler
@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S], ids=["back", "forth"])
def test_a_clock_that_steps_loses_no_frame(
    start: Start, build: Compile, bundle_path: Path, tmp_path: Path, step_s: int
) -> None:
    flag, out, metrics = tmp_path / "flag", tmp_path / "out.jsonl", tmp_path / "metrics"
    environment = os.environ | {
        "LD_PRELOAD": str(build("libclock.so", CLOCK, "-ldl")),
        "CLOCK_FLAG": str(flag),
        "CLOCK_STEP": str(step_s),
    }
    options = ("--json", "--out", out, "--max-latency-ms", HOUR_S * 100, "--metrics", metrics)
    process = start("purify-run", bundle_path, *COMMAND, *options, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    times_s = []
    for number in range(10):
        if number == 5:
            flag.touch()
        process.stdin.buffer.write(FRAME)
        process.stdin.buffer.flush()
        times_s.append(json.loads(process.stdout.readline())["time_s"])
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert len(json_lines(out.read_text())) == 10
    assert times_s[5] - times_s[4] == pytest.approx(step_s, abs=60)  # the step was seen
    assert "0 frames later than" in err
    assert 'purify_images_total{outcome="good"} 10.0' in metrics.read_text()
    assert process.stdin.closed
