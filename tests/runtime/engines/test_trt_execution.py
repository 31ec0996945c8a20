"""Engines on a GPU: an imitated one that enforces CUDA's and TensorRT's rules and computes, and a real one if there."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers.fixtures import Imitate
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import check_bundle
from purify_edge.engines.base import Engine
from purify_edge.engines.models import Setup, open_model
from purify_edge.engines.plan import open_plan
from purify_edge.engines.registry import open_engine
from purify_edge.engines.tensorrt import execution
from purify_edge.engines.tensorrt.engine import require_builder
from purify_edge.errors import BuildError, BundleError, DeviceError, MissingError
from purify_edge.images.arrays import as_batch

VERSIONS = [
    ("rtx", "tensorrt_rtx", "1.7.1.116"),
    ("tensorrt", "tensorrt", "8.6.2"),
    ("tensorrt", "tensorrt", "10.3.0"),
    ("tensorrt", "tensorrt", "10.13.3.9"),
    ("tensorrt", "tensorrt", "11.4.1"),
]


@pytest.fixture(params=[*(version for version in VERSIONS), pytest.param(None, marks=pytest.mark.gpu)], ids=str)
def gpu(request: pytest.FixtureRequest, imitate: Imitate, own_folders: Path) -> Any:
    """A GPU with a library: `engine` is the engine's name, `world` the imitation or None."""
    if request.param is not None:
        engine, builder, version = request.param
        return SimpleNamespace(engine=engine, world=imitate(builder, version))
    for engine, builder in (("tensorrt", "tensorrt"), ("rtx", "tensorrt_rtx")):
        try:
            require_builder(builder)  # type: ignore[arg-type]
        except MissingError:
            continue
        return SimpleNamespace(engine=engine, world=None)
    pytest.skip("no GPU")


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


@pytest.fixture
def golden(bundle: Bundle) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adversarial images, as a batch, with the reference's purified images and logits."""
    split = load_golden(bundle)["adversarial"]
    return as_batch(split.images, bundle.manifest.input), split.purified, split.defended


@pytest.fixture
def purifier(gpu: Any, bundle: Bundle) -> Iterator[Engine]:
    with open_model(bundle, "purifier", Setup(gpu.engine, "fp32", "fp32")) as engine:
        yield engine


def freed(gpu: Any) -> bool:
    world = gpu.world
    return world is None or not (world.cuda.live() or len(world.contexts) or len(world.engines))


def test_the_engine_says_where_it_runs(gpu: Any, purifier: Engine) -> None:
    assert purifier.name == gpu.engine
    assert purifier.device.startswith("cuda:0 (")
    assert purifier.input_spec.shape == purifier.output_spec.shape == (None, 1, 28, 28)
    assert (purifier.input_spec.name, purifier.output_spec.name) == ("images", "purified")


@pytest.mark.parametrize("batch", [1, 7, 64, 130])
def test_the_numbers_are_the_references_at_any_batch_and_again(purifier: Engine, golden: Any, batch: int) -> None:
    x, purified, _ = golden
    for _ in range(3):  # without a graph, capturing one, from the graph
        np.testing.assert_allclose(purifier.run(x[:batch]), purified[:batch], atol=1e-4)
    np.testing.assert_allclose(purifier.run(x[batch : batch + 1]), purified[batch : batch + 1], atol=1e-4)


def test_the_pipeline_is_right_and_uploads_and_downloads_once(gpu: Any, bundle: Bundle, golden: Any) -> None:
    x, purified, logits = golden
    with Pipeline.load(bundle.path, engine=gpu.engine) as pipeline:
        for _ in range(3):
            prediction = pipeline.predict(x[:5])
        np.testing.assert_allclose(prediction.purified, purified[:5], atol=1e-4)
        assert prediction.labels.tolist() == logits[:5].argmax(axis=1).tolist()
        if gpu.world:
            before = gpu.world.cuda.calls.copy()
            probabilities = pipeline.probabilities(x[:5])
            done = gpu.world.cuda.calls - before
            assert done == {"cudaMemcpyAsync": 2, "cudaGraphLaunch": 1, "cudaStreamSynchronize": 1}
        else:
            probabilities = pipeline.probabilities(x[:5])
        np.testing.assert_allclose(probabilities, prediction.probabilities, atol=1e-5)
    assert freed(gpu)


def test_a_batch_size_becomes_a_graph_at_its_second_run_and_few_are_kept(gpu: Any, purifier: Engine) -> None:
    if gpu.world is None:
        pytest.skip("counts the imitation's graphs")
    cuda = gpu.world.cuda
    x = np.zeros((64, 1, 28, 28), np.float32)
    assert not cuda.executables
    for batch in range(2, 2 + execution.PLANS + 2):
        purifier.run(x[:batch])
        purifier.run(x[:batch])
    assert len(cuda.executables) == execution.PLANS
    assert len(gpu.world.contexts) == execution.PLANS
    captured = cuda.calls["cudaStreamBeginCapture"]
    purifier.run(x[:batch])
    assert cuda.calls["cudaStreamBeginCapture"] == captured
    assert not cuda.graphs


@pytest.mark.parametrize("how", ["refuse_capture", "refuse_enqueue_in_capture"])
def test_what_cannot_be_captured_runs_all_the_same(gpu: Any, purifier: Engine, golden: Any, how: str) -> None:
    """TensorRT may refuse to enqueue, and spoil the capture or not."""
    if gpu.world is None:
        pytest.skip("spoils the imitation")
    setattr(gpu.world, how, True)
    x, purified, _ = golden
    for _ in range(3):
        np.testing.assert_allclose(purifier.run(x[:5]), purified[:5], atol=1e-4)
    assert (gpu.world.cuda.graphs, gpu.world.cuda.executables) == ({}, {})
    gpu.world.cuda.violations.clear()  # the imitation was told to refuse


def test_threads_run_at_the_same_time_each_with_a_context(gpu: Any, bundle: Bundle, golden: Any) -> None:
    x, purified, logits = golden
    with Pipeline.load(bundle.path, engine=gpu.engine) as pipeline, ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(lambda start: pipeline.predict(x[start : start + 3]), range(60)))
    for start, prediction in enumerate(predictions):
        np.testing.assert_allclose(prediction.purified, purified[start : start + 3], atol=1e-4)
        assert prediction.labels.tolist() == logits[start : start + 3].argmax(axis=1).tolist()
    assert freed(gpu)


def test_after_close_an_engine_refuses_and_holds_nothing(gpu: Any, purifier: Engine) -> None:
    purifier.close()
    purifier.close()
    assert freed(gpu)
    for use in (lambda: purifier.run(np.zeros((1, 1, 28, 28), np.float32)), lambda: purifier.pair(purifier)):
        with pytest.raises(DeviceError, match="the engine is closed"):
            use()


def test_close_waits_for_the_run_under_way(imitate: Imitate, bundle: Bundle, golden: Any) -> None:
    world = imitate()
    x, purified, _ = golden
    engine = open_model(bundle, "purifier", Setup("rtx", "fp32", "fp32"))
    begun, go_on = threading.Event(), threading.Event()
    outputs: list[np.ndarray] = []

    def slow() -> int:
        begun.set()
        go_on.wait(300)
        return 0

    world.cuda.fail["cudaStreamSynchronize"] = slow
    running = threading.Thread(target=lambda: outputs.append(engine.run(x[:2])))
    closing = threading.Thread(target=engine.close)
    running.start()
    assert begun.wait(300)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    go_on.set()
    running.join(300)
    closing.join(300)
    assert not closing.is_alive()
    np.testing.assert_allclose(outputs[0], purified[:2], atol=1e-4)
    assert world.cuda.live() == {}


def test_the_check_passes(gpu: Any, bundle: Bundle) -> None:
    report = check_bundle(bundle, engine=gpu.engine, rounds=2)
    assert report.passed
    assert {row.engine for row in report.parity} == {gpu.engine}
    assert report.environment["devices"][gpu.engine].startswith("cuda:0 (")
    assert freed(gpu)


ALLOCATIONS = ["cudaStreamCreateWithFlags", "cudaMalloc", "cudaHostAlloc"]


@pytest.mark.parametrize("function", ALLOCATIONS)
@pytest.mark.parametrize("succeeding", [0, 1])
def test_a_gpu_without_memory_is_told_of_and_nothing_is_kept(
    imitate: Imitate, bundle: Bundle, function: str, succeeding: int
) -> None:
    world = imitate()
    if function == "cudaStreamCreateWithFlags" and succeeding:
        pytest.skip("there is one stream only")
    left = [succeeding]

    def code() -> int:
        left[0] -= 1
        return 2 if left[0] < 0 else 0

    world.cuda.fail[function] = code
    with pytest.raises(DeviceError, match=r"out of memory|memory is used up.*--batch"):
        open_model(bundle, "purifier", Setup("rtx", "fp32", "fp32"))
    assert world.cuda.live() == {}
    assert not world.contexts


def test_a_failing_gpu_is_told_in_cudas_words_and_the_next_run_is_good(
    imitate: Imitate, bundle: Bundle, golden: Any
) -> None:
    world = imitate()
    x, purified, _ = golden
    with open_model(bundle, "purifier", Setup("rtx", "fp32", "fp32")) as engine:
        world.cuda.fail["cudaStreamSynchronize"] = 700
        with pytest.raises(DeviceError, match=r"cudaStreamSynchronize failed: an illegal memory access .* \(700\)"):
            engine.run(x[:2])
        world.cuda.fail.clear()
        for stream in world.cuda.streams.values():  # of a lane that was given up
            stream.queue.clear()
        world.cuda.violations.clear()
        np.testing.assert_allclose(engine.run(x[:2]), purified[:2], atol=1e-4)


def test_few_images_are_padded(imitate: Imitate, bundle: Bundle, golden: Any, model_files: Callable[..., Any]) -> None:
    from purify_edge.engines.tensorrt.options import BuildOptions

    imitate()
    library, cuda = require_builder("tensorrt_rtx")
    files, x, purified = model_files(), golden[0], golden[1]
    graph = files.bundle.read(files.model.file)
    files.ensure(graph, library, cuda.device, BuildOptions(batch=(4, 4, 8)))
    with open_engine("rtx", graph, source="m", files=files) as engine:
        for batch in (1, 3, 5, 9, 10):
            for _ in range(3):
                np.testing.assert_allclose(engine.run(x[:batch]), purified[:batch], atol=1e-4)


def test_engines_without_a_batch_in_common_are_refused(imitate: Imitate) -> None:
    stages = [SimpleNamespace(batch=(1, 4)), SimpleNamespace(batch=(8, 8))]
    with pytest.raises(BundleError, match="no batch size in common"):
        execution.Executor(None, stages)  # type: ignore[arg-type]


def test_a_gpu_that_rtx_has_nothing_for_is_told_what_to_use(imitate: Imitate, bundle: Bundle) -> None:
    imitate(name="Orin", capability=(8, 7))
    with pytest.raises(MissingError, match=r"the Orin has 8\.7: use --engine tensorrt or onnxruntime"):
        open_model(bundle, "purifier", Setup("rtx", "fp32", "fp32"))


def test_auto_goes_on_where_a_library_is_for_another_cuda(imitate: Imitate, bundle: Bundle) -> None:
    """An older libcudart finds the GPU, but TensorRT, made for a newer CUDA, does not start."""
    imitate().refuse_runtime = True
    with pytest.raises(MissingError, match=r"does not start here: CUDA initialization failure.*purify-doctor tells"):
        open_model(bundle, "purifier", Setup("rtx", "fp32", "fp32"))
    with open_plan(bundle) as planned:
        assert planned.plan.device == "cpu"
        assert "does not start here" in planned.plan.left_out["rtx"]


def test_auto_takes_an_engine_only_where_it_takes_all_of_the_models(
    imitate: Imitate, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """For Turing, TensorRT for RTX really builds the purifier, and really refuses the classifier."""
    imitate(capability=(7, 5))
    with caplog.at_level(logging.INFO), Pipeline.load(bundle.path) as pipeline:
        assert pipeline.predict(np.zeros((1, 28, 28, 1), np.uint8)).labels.shape == (1,)
    assert "not rtx: TensorRT for RTX" in caplog.text
    report = check_bundle(bundle, precisions=["fp32"], rounds=0)
    assert "rtx" not in {row.engine for row in report.parity}
    with pytest.raises(BuildError, match="FP32 GEMM is not supported"):
        Pipeline.load(bundle.path, engine="rtx")
    with Pipeline.load(bundle.path, precision="fp16") as pipeline:
        assert pipeline.plan.engine == "rtx"


def test_auto_takes_the_gpu_where_it_works_and_the_cpu_where_it_does_not(imitate: Imitate, bundle: Bundle) -> None:
    world = imitate()
    with open_plan(bundle, precision="fp32") as planned:
        assert planned.plan.engine == "rtx"
    world.cuda.capacity_bytes = 1000
    with open_plan(bundle, precision="fp32") as planned:
        assert planned.plan.device == "cpu"
    assert world.cuda.live() == {}
