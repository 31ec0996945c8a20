import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

from helpers.fixtures import Imitate
from helpers.images import GREY
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import Cores, CpuSettings, Engine, TensorSpec
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_edge.engines.registry import ENGINES, engines_on, open_engine, require_engine
from purify_edge.errors import BuildError, BundleError, InputError, MissingError
from purify_edge.images.arrays import as_batch


@pytest.fixture(params=ENGINES)
def works(request: pytest.FixtureRequest, imitate: Imitate) -> str:
    """Every engine, those of TensorRT on an imitated GPU, that of CUDA where there is one."""
    name = str(request.param)
    if name in ("tensorrt", "rtx"):
        imitate(*{"tensorrt": ("tensorrt", "10.3.0"), "rtx": ("tensorrt_rtx",)}[name])
    if name == "onnxruntime-cuda" and not has_cuda():
        pytest.skip("no GPU for ONNX Runtime here")
    if name == "openvino":
        pytest.importorskip("openvino")
    return name


def has_cuda() -> bool:
    """Whether ONNX Runtime's CUDA provider is installed and there is a GPU."""
    onnxruntime = pytest.importorskip("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists()


@pytest.fixture
def engine(works: str, graphs: dict[str, bytes]) -> Engine:
    """Every engine, with the bundle's purifier."""
    return open_engine(works, graphs["purifier"], source="purifier")


def test_an_engine_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert engine.input_spec == TensorSpec("images", "float32", (None, 1, 28, 28))
    assert engine.output_spec == TensorSpec("purified", "float32", (None, 1, 28, 28))
    assert engine.name in ENGINES


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_an_engine_gives_the_references_numbers_at_any_batch(engine: Engine, adversarial: Any, batch: int) -> None:
    with engine:
        output = engine.run(as_batch(adversarial.images[:batch], GREY))
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, adversarial.purified[:batch], atol=1e-5)


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    known = "auto, tensorrt, rtx, onnxruntime-cuda, openvino, onnxruntime"
    with pytest.raises(InputError, match=f"no engine 'tensorflow'; known: {known}"):
        open_engine("tensorflow", b"", source="m")


@pytest.mark.parametrize("graph", [b"", b"not a graph"])
def test_what_is_no_graph_is_refused(works: str, graph: bytes) -> None:
    with pytest.raises((BundleError, BuildError), match=r"cannot (load|parse) the purifier"):
        open_engine(works, graph, source="the purifier")


def test_where_no_library_is_installed_every_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("tensorrt", "tensorrt_rtx", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it now raises ImportError
    reasons = "tensorrt needs .*; rtx needs .*; openvino needs .*; onnxruntime needs 'cpu': pip install"
    with pytest.raises(MissingError, match=f"no engine works here: {reasons}"):
        require_engine()


def test_two_engines_in_a_row_give_what_each_alone_gives(works: str, graphs: Any, adversarial: Any) -> None:
    x = as_batch(adversarial.images[:3], GREY)
    for name in dict.fromkeys((works, "onnxruntime")):  # on one device, and from one to another
        first, second = (open_engine(n, graphs[r], source=r) for n, r in ((works, "purifier"), (name, "classifier")))
        with first, second:
            pair = first.pair(second)
            purified, logits = pair.both(x)
            np.testing.assert_allclose(purified, first.run(x), atol=1e-6)
            np.testing.assert_allclose(pair.purify(x), purified, atol=1e-6)
            np.testing.assert_allclose(logits, second.run(purified), atol=1e-5)
            np.testing.assert_allclose(pair.logits(x), logits, atol=1e-6)
            np.testing.assert_allclose(pair.classify(x), second.run(x), atol=1e-6)


def test_with_an_engine_there_is_nothing_to_complain_of() -> None:
    require_engine()


@pytest.fixture(params=engines_on("cpu"))
def on_cpu(request: pytest.FixtureRequest) -> str:
    """Every engine on the CPU."""
    pytest.importorskip(request.param)
    return str(request.param)


def test_a_graph_gets_no_weights_from_files_that_nobody_verified(
    on_cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    weights = np.arange(16, dtype=np.float32).reshape(4, 4)
    (tmp_path / "weights.bin").write_bytes(weights.tobytes())
    monkeypatch.chdir(tmp_path)
    tensor = onnx.numpy_helper.from_array(weights, "weights")
    image, answer = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    node = onnx.helper.make_node("MatMul", ["x", "weights"], ["y"])
    opset = [onnx.helper.make_opsetid("", 18)]

    def graph() -> bytes:
        made = onnx.helper.make_graph([node], "g", [image], [answer], [tensor])
        return bytes(onnx.helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString())

    with open_engine(on_cpu, graph(), source="m") as engine:
        assert np.array_equal(engine.run(np.eye(4, dtype=np.float32)), weights)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset=0, length=64)
    tensor.ClearField("raw_data")
    with pytest.raises(BundleError, match="cannot load m"):
        open_engine(on_cpu, graph(), source="m")


def test_a_graph_of_no_input_is_refused(on_cpu: str) -> None:
    onnx = pytest.importorskip("onnx")
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Constant", [], ["y"], value_floats=[1.0])
    made = onnx.helper.make_graph([node], "g", [], [answer])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BundleError, match="m must have one input and one output"):
        open_engine(on_cpu, model.SerializeToString(), source="m")


@pytest.mark.parametrize("cores", get_args(Cores))
def test_how_the_cores_are_used_changes_no_answer(on_cpu: str, cores: Cores, graphs: Any, adversarial: Any) -> None:
    x = as_batch(adversarial.images[:9], GREY)
    with open_engine(on_cpu, graphs["defended"], source="m", settings=CpuSettings(cores)) as engine:
        np.testing.assert_allclose(engine.run(x), adversarial.defended[:9], atol=1e-4)


def test_an_engine_computes_with_as_many_threads_as_it_is_told(graphs: dict[str, bytes]) -> None:
    with OnnxRuntimeEngine(graphs["purifier"], source="m", settings=CpuSettings("one")) as engine:
        assert engine._session.get_session_options().intra_op_num_threads == 1


def test_threads_share_an_engine_and_each_gets_its_own_answer(on_cpu: str, graphs: Any, adversarial: Any) -> None:
    x = as_batch(adversarial.images, GREY)
    purifier, classifier = (open_engine(on_cpu, graphs[role], source=role) for role in ("purifier", "classifier"))
    with purifier, classifier, ThreadPoolExecutor(4) as pool:
        pair = purifier.pair(classifier)
        starts = [start for start in range(100) for _ in range(2)]
        for start, (purified, logits) in zip(starts, pool.map(lambda i: pair.both(x[i : i + 3]), starts), strict=True):
            np.testing.assert_allclose(purified, adversarial.purified[start : start + 3], atol=1e-5)
            np.testing.assert_allclose(logits, adversarial.defended[start : start + 3], atol=1e-4)


def test_openvino_keeps_to_the_graphs_precision_and_writes_no_files(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    from purify_edge.engines.openvino import OpenVinoEngine, properties

    bundle = Bundle.open(bundle_path)
    graph, before = bundle.read(bundle.model("purifier", "fp32").file), sorted(bundle.path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with OpenVinoEngine(graph, source="p") as engine:
        assert engine._model.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert (engine.device, engine.version) == ("cpu", openvino.__version__.partition("-")[0])
    assert list(tmp_path.iterdir()) == []
    assert sorted(bundle.path.rglob("*")) == before
    assert properties(CpuSettings("one"))["INFERENCE_NUM_THREADS"] == 1
    assert properties(CpuSettings())["ENABLE_CPU_PINNING"] is False  # a tied thread waits where its core is taken
    assert properties(CpuSettings("tied"))["ENABLE_CPU_PINNING"] is True


CLOSED_ONE_BY_ONE = """
import signal, sys
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.registry import open_engine

bundle = Bundle.open(sys.argv[1])
graph = bundle.read(bundle.model("purifier", "fp32").file)
signal.signal(signal.SIGINT, signal.default_int_handler)
engines = [open_engine("openvino", graph, source="purifier") for _ in range(3)]
while engines:
    engines.pop(0).close()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_is_no_crash_where_openvino_was_closed(bundle_path: Path) -> None:
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_ONE_BY_ONE, str(bundle_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, 3 * "interrupted\n"), done.stderr


def test_threads_that_open_openvino_at_once_share_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    from purify_edge.engines import openvino as module

    def slow() -> object:
        time.sleep(0.2)
        return object()

    library = ModuleType("openvino")
    library.Core = slow  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "require", lambda: library)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: module.core(), range(4)))) == 1


def test_onnx_runtime_is_kept_from_telling_on_its_user(bundle_path: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from purify_edge import Pipeline; Pipeline.load(sys.argv[1], engine='onnxruntime').close(); "
        "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    variables = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    variables |= {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")}
    command = [sys.executable, "-c", program, str(bundle_path.resolve())]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # neither its database nor a device's number
