"""ONNX Runtime's CUDA engine: its bindings, for real, on the CPU provider; the rest of it where there is a GPU."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import Pair
from purify_edge.engines.onnxruntime_cuda import CAPTURED_BATCHES, NO_GRAPH, OnnxRuntimeCudaEngine, keep, require
from purify_edge.errors import BuildError, DeviceError, MissingError
from purify_edge.images.arrays import as_batch

onnxruntime = pytest.importorskip("onnxruntime")
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists()
on_gpu = pytest.mark.skipif(not HAS_CUDA, reason="no GPU for ONNX Runtime here")


class OnCpu(OnnxRuntimeCudaEngine):
    """The same bindings to memory of the host."""

    provider = ("CPUExecutionProvider", {})
    settings = ()
    memory = "cpu"

    def _require(self) -> Any:
        return onnxruntime


@pytest.fixture(scope="module")
def x(bundle_path: Path, adversarial: GoldenSplit) -> Any:
    return as_batch(adversarial.images, Bundle.open(bundle_path).manifest.input)


@pytest.fixture(params=[OnCpu, pytest.param(OnnxRuntimeCudaEngine, marks=[pytest.mark.gpu, on_gpu])])
def engine_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package of that name, which has no providers; where its libraries are."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").write_text("get_available_providers = list\n")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "onnxruntime" / "capi"


@pytest.mark.parametrize(
    ("names", "is_loaded"),
    [
        (["libonnxruntime_providers_shared.so"], False),
        (["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"], True),
        (["onnxruntime_providers_shared.dll", "onnxruntime_providers_cuda.dll"], True),
        ([], True),
    ],
)
def test_a_package_without_cudas_library_is_not_loaded(package: Path, names: list[str], is_loaded: bool) -> None:
    for name in names:
        (package / name).touch()
    with pytest.raises(MissingError, match=r"pip install 'purify-edge\[gpu\]'.*has no CUDAExecutionProvider"):
        require()
    assert ("onnxruntime" in sys.modules) == is_loaded


BATCHES = (1, 7, 2, 64, 3, 5, 1, 9)  # more sizes than graphs are kept for


def test_every_batch_gives_the_references_numbers(engine_class: Any, graphs: Any, adversarial: Any, x: Any) -> None:
    with engine_class(graphs["purifier"], source="p") as engine:
        outputs = [engine.run(x[:batch]) for batch in BATCHES]
        again = [engine.run(x[batch : 2 * batch]) for batch in BATCHES]
        assert len(engine._kept) == CAPTURED_BATCHES
    # After all the runs: none wrote into another.
    for batch, output, second in zip(BATCHES, outputs, again, strict=True):
        np.testing.assert_allclose(output, adversarial.purified[:batch], atol=1e-5)
        np.testing.assert_allclose(second, adversarial.purified[batch : 2 * batch], atol=1e-5)


def test_the_second_reads_where_the_first_wrote(engine_class: Any, graphs: Any, adversarial: Any, x: Any) -> None:
    with (
        engine_class(graphs["purifier"], source="p") as first,
        engine_class(graphs["classifier"], source="c") as second,
    ):
        pair: Pair = first.pair(second)
        for batch in BATCHES:
            purified, logits = pair.both(x[:batch])
            np.testing.assert_allclose(purified, adversarial.purified[:batch], atol=1e-5)
            np.testing.assert_allclose(logits, adversarial.defended[:batch], atol=1e-4)
            np.testing.assert_array_equal(pair.logits(x[:batch]), logits)
        one, two = pair._kept[1]  # type: ignore[attr-defined]
        assert two._input.data_ptr() == one.output.data_ptr()


def test_threads_take_turns(engine_class: Any, graphs: Any, adversarial: Any, x: Any) -> None:
    with ThreadPoolExecutor(4) as pool, engine_class(graphs["purifier"], source="p") as engine:
        starts = [start for start in range(60) for _ in range(2)]
        for start, output in zip(starts, pool.map(lambda i: engine.run(x[i : i + 3]), starts), strict=True):
            np.testing.assert_allclose(output, adversarial.purified[start : start + 3], atol=1e-5)


def test_a_closed_engine_says_so(engine_class: Any, graphs: Any, x: Any) -> None:
    engine = engine_class(graphs["purifier"], source="p")
    engine.close()
    with pytest.raises(DeviceError, match="closed"):
        engine.run(x[:1])


def test_images_of_another_size_are_refused_before_the_device_sees_them(graphs: Any) -> None:
    with OnCpu(graphs["purifier"], source="p") as engine, pytest.raises((DeviceError, RuntimeError)):
        engine.run(np.zeros((1, 1, 5, 5), np.float32))


def test_each_captured_size_has_a_graph_of_its_own_and_the_rest_none() -> None:
    kept: dict[int, int] = {}
    numbers = [keep(kept, batch, lambda graph: graph) for batch in (8, 1, 8, 2, 3, 4, 5)]
    assert numbers == [1, 2, 1, 3, 4, NO_GRAPH, NO_GRAPH]


def test_a_provider_that_onnx_runtime_falls_back_from_is_refused(graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(OnnxRuntimeCudaEngine):
        settings = ()

        def _require(self) -> Any:
            return onnxruntime

    if HAS_CUDA:
        pytest.skip("there is a GPU")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(MissingError, match="CUDAExecutionProvider does not work here, ONNX Runtime fell back to CPU"),
    ):
        Absent(graphs["purifier"], source="p")


def test_a_graph_that_the_provider_cannot_run_is_not_the_bundles_fault_yet() -> None:
    with pytest.raises(BuildError, match="CPUExecutionProvider cannot run m"):
        OnCpu(b"not a graph", source="m")
