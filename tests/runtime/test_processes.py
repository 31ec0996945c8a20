"""A pipeline in several processes, as docs/running.md says that it is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, os, sys
import numpy as np
from purify_edge import Pipeline

bundle, method, engine = sys.argv[1:]
images = np.zeros((32, 28, 28, 1), np.uint8)


def load(bundle, engine):
    global pipeline
    pipeline = Pipeline.load(bundle, engine=engine, precision="fp32")


def work(images):
    return os.getpid(), pipeline.predict(images).labels.tolist()


if __name__ == "__main__":
    expected = None
    if method != "fork":  # these may come after a run
        load(bundle, engine)
        expected = work(images)[1]
    pool = multiprocessing.get_context(method).Pool(2, load, (bundle, engine))
    answers = pool.map(work, [images] * 4, chunksize=1)
    pool.close()
    pool.join()
    assert os.getpid() not in {process for process, _ in answers}
    assert all(labels == (expected or answers[0][1]) for _, labels in answers)
    if method == "fork":  # a run may come after these
        load(bundle, engine)
        assert work(images)[1] == answers[0][1]
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_each_process_loads_a_pipeline_of_its_own(bundle_path: Path, tmp_path: Path, engine: str, method: str) -> None:
    pytest.importorskip(engine)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, program, bundle_path, method, engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
