import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from purify_edge import Pipeline, Prediction
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.pipeline.pipeline import BATCH
from purify_edge.run.job import Job
from purify_edge.run.runner import Run


def test_a_batch_runs_beside_the_one_before_and_results_keep_their_order(
    bundle_path: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    files = [folder / f"{number:03d}.png" for number in range(2 * BATCH)]
    for file in files:
        shutil.copy(images[0], file)
    together, predict = threading.Barrier(2), Pipeline.predict

    def meeting(pipeline: Pipeline, batch: NDArray[np.uint8]) -> Prediction:
        together.wait(timeout=300)
        return predict(pipeline, batch)

    monkeypatch.setattr(Pipeline, "predict", meeting)
    job = Job(
        bundle=bundle_path,
        inputs=(str(folder),),
        engine="onnxruntime",
        precision="fp32",
        verify=None,
        policy=EnginePolicy(),
    )
    with Run(job) as run:
        found = [result.file for results in run.results() for result in results]
    assert found == [str(file) for file in files]
