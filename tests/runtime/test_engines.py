import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from purify_runtime import engines
from purify_runtime.bundle import Bundle
from purify_runtime.engines import ENGINES, Engine, TensorSpec, open_engine, require_engine
from purify_runtime.errors import BuildError, BundleError, InputError, MissingError
from purify_runtime.golden import load_golden
from purify_runtime.images import as_batch


@pytest.fixture(params=ENGINES)
def works(request: pytest.FixtureRequest, imitate: Callable[..., Any]) -> str:
    """Every engine, those that need a GPU on an imitated one."""
    if request.param != "onnxruntime":
        imitate(*{"tensorrt": ("tensorrt", "10.3.0"), "rtx": ("tensorrt_rtx",)}[request.param])
    return str(request.param)


@pytest.fixture
def engine(works: str, bundle_path: Path) -> Engine:
    """Every engine, with the bundle's purifier."""
    bundle = Bundle.open(bundle_path)
    graph = bundle.read(bundle.model("purifier", "fp32").file)
    return open_engine(works, graph, source="purifier")


def test_an_engine_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert engine.input_spec == TensorSpec("images", "float32", (None, 1, 28, 28))
    assert engine.output_spec == TensorSpec("purified", "float32", (None, 1, 28, 28))
    assert engine.name in ENGINES


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_an_engine_gives_the_references_numbers_at_any_batch(engine: Engine, bundle_path: Path, batch: int) -> None:
    bundle = Bundle.open(bundle_path)
    split = load_golden(bundle)["adversarial"]
    with engine:
        output = engine.run(as_batch(split.images[:batch], bundle.manifest.input))
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, split.purified[:batch], atol=1e-5)


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no engine 'tensorflow'; known: auto, tensorrt, rtx, onnxruntime"):
        open_engine("tensorflow", b"", source="m")


@pytest.mark.parametrize("graph", [b"", b"not a graph"])
def test_what_is_no_graph_is_refused(works: str, graph: bytes) -> None:
    with pytest.raises((BundleError, BuildError), match=r"cannot (load|parse) the purifier"):
        open_engine(works, graph, source="the purifier")
    with pytest.raises(BundleError, match=r"cannot load the purifier"):  # no other engine takes it either
        open_engine("auto", graph, source="the purifier")


@pytest.fixture
def a_missing_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINES with one that cannot be had, before the others."""

    def cannot(graph: bytes, *, source: str, files: object) -> Engine:
        raise MissingError("needs 'quantum': pip install 'purify-edge[quantum]'")

    monkeypatch.setattr(engines, "cannot", cannot, raising=False)
    monkeypatch.setattr(engines, "ENGINES", {"quantum": "purify_runtime.engines:cannot"} | ENGINES)


@pytest.mark.usefixtures("a_missing_engine")
def test_auto_takes_the_first_that_works_and_says_why(bundle_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = Bundle.open(bundle_path)
    graph = bundle.read(bundle.model("purifier", "fp32").file)
    with caplog.at_level(logging.INFO), open_engine("auto", graph, source="purifier") as engine:
        assert engine.name == "onnxruntime"
    assert "engine onnxruntime on cpu" in caplog.text
    assert "not quantum needs 'quantum'" in caplog.text


@pytest.mark.usefixtures("a_missing_engine")
def test_a_requested_engine_that_is_missing_is_an_error() -> None:
    with pytest.raises(MissingError, match=r"purify-edge\[quantum\]"):
        open_engine("quantum", b"", source="purifier")


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_whose_library_is_missing_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("tensorrt", "tensorrt_rtx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it now raises ImportError
    with pytest.raises(MissingError, match=r"needs '[a-z]+': pip install 'purify-edge\[[a-z]+\]'"):
        open_engine(name, b"", source="m")
    with pytest.raises(MissingError, match=r"no engine works here: tensorrt needs .*; rtx needs .*; onnxruntime needs"):
        require_engine()


def test_two_engines_in_a_row_give_what_one_after_the_other_gives(
    works: str, bundle_path: Path, imitate: Callable[..., Any]
) -> None:
    bundle = Bundle.open(bundle_path)
    graphs = {role: bundle.read(bundle.model(role, "fp32").file) for role in ("purifier", "classifier")}
    x = as_batch(load_golden(bundle)["clean"].images[:3], bundle.manifest.input)
    with open_engine(works, graphs["purifier"], source="p") as first:
        for name in dict.fromkeys((works, "onnxruntime")):  # on one device, and from one to another
            with open_engine(name, graphs["classifier"], source="c") as second:
                chain = first.then(second)
                between, logits = chain.run(x)
                np.testing.assert_allclose(between, first.run(x), atol=1e-6)
                np.testing.assert_allclose(logits, second.run(between), atol=1e-5)
                np.testing.assert_allclose(chain.last(x), logits, atol=1e-6)
                chain.close()


def test_auto_takes_another_engine_where_one_cannot_be_built(
    imitate: Callable[..., Any], bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    imitate().refuse_build = True
    bundle = Bundle.open(bundle_path)
    graph = bundle.read(bundle.model("purifier", "fp32").file)
    with caplog.at_level(logging.INFO), open_engine("auto", graph, source="purifier") as engine:
        assert engine.name == "onnxruntime"
    assert "Could not find any implementation" in caplog.text


def test_with_an_engine_there_is_nothing_to_complain_of() -> None:
    require_engine()


def test_a_graph_gets_no_weights_from_files_that_nobody_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    with open_engine("onnxruntime", graph(), source="m") as engine:
        assert np.array_equal(engine.run(np.eye(4, dtype=np.float32)), weights)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset=0, length=64)
    tensor.ClearField("raw_data")
    with pytest.raises(BundleError, match="cannot load m"):
        open_engine("onnxruntime", graph(), source="m")


def test_a_graph_of_no_input_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Constant", [], ["y"], value_floats=[1.0])
    made = onnx.helper.make_graph([node], "g", [], [answer])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BundleError, match="m must have one input and one output"):
        open_engine("onnxruntime", model.SerializeToString(), source="m")
