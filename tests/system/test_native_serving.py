"""purify-serve --native: the served graph for a server's own backends; all configurations, as Triton parses them."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from helpers.served_graphs import served_of
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import Pixels
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError
from purify_edge.files import file_sha256
from purify_edge.serve.config import CONFIG, Serving
from purify_edge.serve.repository import write_model

model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")
PIXELS: tuple[Pixels, ...] = ("float32", "uint8")
SPARING: dict[Pixels, bool] = {"float32": False, "uint8": True}
DTYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8"}


@pytest.fixture(scope="module")
def served(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Pixels, Bundle]:
    """The pair that ships, with a served graph of either kind; that of bytes spares clean images."""
    work, found = tmp_path_factory.mktemp("served"), dict[Pixels, Bundle]()
    for pixels in PIXELS:
        path = Path(shutil.copytree(bundle_path, work / pixels))
        bundle = Bundle.open(path)
        graph = served_of(bundle, pixels=pixels, spare_clean=SPARING[pixels])
        content, file = graph.SerializeToString(), path / "models" / "served.fp32.onnx"
        file.write_bytes(content)
        entry = {"path": "models/served.fp32.onnx", "size_bytes": len(content), "sha256": file_sha256(file)}
        manifest = json.loads((path / "manifest.json").read_text())
        model = {"role": "served", "precision": "fp32", "file": entry, "pixels": pixels, "spare_clean": SPARING[pixels]}
        manifest["models"].append(model)
        (path / "manifest.json").write_text(json.dumps(manifest))
        found[pixels] = Bundle.open(path)
    return found


def read_config(path: Path) -> "model_config_pb2.ModelConfig":
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("native", ["onnxruntime", "tensorrt", "openvino"])
@pytest.mark.parametrize("pixels", PIXELS)
def test_a_native_model_is_the_served_graph(
    served: dict[Pixels, Bundle], tmp_path: Path, native: str, pixels: Pixels
) -> None:
    bundle = served[pixels]
    asked = Serving(name="pair", native=native, instances=2, spare_clean=SPARING[pixels])
    version, config = write_model(bundle, tmp_path, asked), read_config(tmp_path / "pair" / CONFIG)
    graph = version / "model.onnx"
    assert graph.read_bytes() == bundle.read(bundle.model("served", "fp32").file)
    assert list(version.iterdir()) == [graph]  # OpenVINO Model Server takes the folder as it is
    session = onnxruntime.InferenceSession(graph)
    for node, tensor in zip(session.get_inputs() + session.get_outputs(), [*config.input, *config.output], strict=True):
        assert (node.name, DTYPES[node.type]) == (tensor.name, model_config_pb2.DataType.Name(tensor.data_type))
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        assert node.shape[1:] == list(dims)
    assert config.backend == ("openvino" if native == "openvino" else "onnxruntime")
    assert config.instance_group[0].count == 2
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [of.name for of in accelerators] == (["tensorrt"] if native == "tensorrt" else [])
    kept = [of.parameters["trt_engine_cache_path"] for of in accelerators]
    assert not any(Path(folder).is_absolute() for folder in kept)  # in the repository: engines are code
    kind = model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind)
    assert kind == ("KIND_GPU" if native == "tensorrt" else "KIND_AUTO")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert bundle.manifest.suspicion is not None
    assert parameters == {
        "purify_edge.manifest_sha256": bundle.sha256,
        "purify_edge.precision": "fp32",
        "purify_edge.suspicion_threshold": repr(bundle.manifest.suspicion.threshold),
    }
    warmup = (tmp_path / "pair" / "warmup" / "images").read_bytes()
    image = np.frombuffer(warmup, pixels).reshape(1, *config.input[0].dims)
    (probabilities,) = session.run(["probabilities"], {"images": image})
    assert probabilities.argmax() == next(iter(load_golden(bundle).values())).defended[0].argmax()
    assert (tmp_path / "pair-health" / "1" / "image").read_bytes() == warmup


@pytest.mark.parametrize(("pixels", "message"), [("float32", "export it with --spare"), ("uint8", "add --spare-clean")])
def test_the_graph_and_the_option_to_spare_must_agree(
    served: dict[Pixels, Bundle], tmp_path: Path, pixels: Pixels, message: str
) -> None:
    asked = Serving(name="pair", native="openvino", spare_clean=not SPARING[pixels])
    with pytest.raises(InputError, match=message):
        write_model(served[pixels], tmp_path / "models", asked)
    assert not (tmp_path / "models").exists()


def test_every_configuration_is_one_that_triton_reads(bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    write_model(bundle, tmp_path, Serving(name="pixels"))
    write_model(bundle, tmp_path, Serving(name="files", files=True))
    for config in tmp_path.glob("*/config.pbtxt"):
        assert read_config(config).name == config.parent.name
