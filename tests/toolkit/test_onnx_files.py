"""The door for ONNX files: what is adapted, proven and refused; graphs of Keras and of Ultralytics."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from helpers.files_of_models import (
    CLASSES,
    SIZE,
    at,
    images,
    keras_like,
    logits_of,
    onnx_of,
    opened,
    run_graph,
    seeded,
    small,
)
from purify_edge.engines.onnxruntime import require
from purify_edge.errors import InputError
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.doors.doors import published_input
from purify_toolkit.networks.onnx_program import OPSET
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier, check_classifier

CPU = torch.device("cpu")
pytest.importorskip("onnx2pytorch")


class Clamped(nn.Module):
    """A clamp of one side."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Return x, clamped."""
        return torch.clamp(x, self.low, self.high)


@pytest.mark.parametrize(
    "options", [{}, {"uint8": True}, {"softmax": False}, {"batch": 1}, {"batch": 2, "uint8": True}, {"batch": 16}]
)
def test_graphs_of_keras_are_adapted(options: dict[str, object], tmp_path: Path) -> None:
    keras_like(tmp_path / "mine.onnx", **options)
    original, x = onnx.load(tmp_path / "mine.onnx"), images(8)
    session = require().InferenceSession(original.SerializeToString(), providers=["CPUExecutionProvider"])
    given = x.permute(0, 2, 3, 1).numpy() if options.get("uint8") else (x / 255).permute(0, 2, 3, 1).numpy()
    size = int(options.get("batch", 8))  # type: ignore[call-overload]
    rows = given[np.arange(max(8, size)) % 8]
    parts = np.split(rows, len(rows) // size)
    expected = np.concatenate([session.run(None, {"input": part})[0] for part in parts])[:8]
    built = build_classifier(ClassifierSource(str(tmp_path / "mine.onnx"), own_weights=False), channels=3, classes=4)
    built.prove(x / 255)
    logits = logits_of(built, x / 255)
    answers = logits.softmax(1) if options.get("softmax", True) else logits
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)
    assert logits.sum(1).std() > 0.01  # logits, no probabilities
    own = built.own_graph((3, SIZE, SIZE), opset=OPSET)
    assert own is not None
    np.testing.assert_allclose(run_graph(own, x / 255), logits, rtol=0, atol=1e-5)
    theirs = {tensor.name: tensor.raw_data for tensor in original.graph.initializer if tensor.name != "shape"}
    assert theirs.items() <= {tensor.name: tensor.raw_data for tensor in own.graph.initializer}.items()


@pytest.mark.parametrize(
    "clip",
    [nn.ReLU6(), nn.Hardtanh(-0.5, 0.25), Clamped(0.1, None), Clamped(None, 0.2)],
    ids=["6", "two", "low", "high"],
)
def test_clips_are_between_numbers_and_so_are_their_gradients(clip: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), clip, nn.Flatten(), nn.Linear(4 * (SIZE - 2) ** 2, 4)).eval()
    x = (images(8) / 255).requires_grad_(True)
    torch.onnx.export(
        network,
        (x.detach(),),
        tmp_path / "mine.onnx",
        dynamo=True,
        verbose=False,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    built = build_classifier(ClassifierSource(str(tmp_path / "mine.onnx"), own_weights=False), channels=3, classes=4)
    kinds = [type(module).__module__ for module in built.modules() if type(module).__name__ == "Clip"]
    assert kinds == ["purify_toolkit.networks.onnx_graphs.conversion"]
    (found,) = torch.autograd.grad(built(x)[:, 0].sum(), x)
    (expected,) = torch.autograd.grad(network(x)[:, 0].sum(), x)
    torch.testing.assert_close(built(x), network(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_graph_that_takes_bgr_gets_it(tmp_path: Path) -> None:
    keras_like(tmp_path / "mine.onnx")
    x = images(8) / 255
    source = ClassifierSource(str(tmp_path / "mine.onnx"), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), own_weights=False)
    rgb, bgr = (build_classifier(replace(source, colour=colour), channels=3, classes=4) for colour in ("rgb", "bgr"))
    bgr.prove(x)
    expected = logits_of(rgb, x.flip(1))
    torch.testing.assert_close(logits_of(bgr, x), expected)
    own = bgr.own_graph((3, SIZE, SIZE), opset=OPSET)
    assert own is not None
    np.testing.assert_allclose(run_graph(own, x), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_keras_is_taken_with_what_it_scales_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras = pytest.importorskip("keras")
    steps = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3, 2, activation="relu")]
    steps += [keras.layers.BatchNormalization(), keras.layers.SeparableConv2D(8, 3, activation="relu")]
    steps += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4, activation="softmax")]
    network = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *steps])
    pictures = images(8)
    expected = network.predict(pictures.permute(0, 2, 3, 1).float().numpy(), verbose=0)
    network.export(str(tmp_path / "mine.onnx"), format="onnx", verbose=False)
    source = ClassifierSource(str(tmp_path / "mine.onnx"), (0.0,) * 3, (0.0039216,) * 3, own_weights=False)
    built = build_classifier(source, channels=3, classes=4)
    built.prove(pictures / 255)
    np.testing.assert_allclose(logits_of(built, pictures / 255).softmax(1), expected, rtol=0, atol=1e-4)


def test_what_ultralytics_writes_into_a_graph_is_taken(tmp_path: Path) -> None:
    def described(model: onnx.ModelProto) -> None:
        names = str(dict(enumerate(CLASSES)))
        onnx.helper.set_model_props(model, {"task": "classify", "imgsz": "[32, 48]", "names": names})

    path = at(tmp_path / "mine.onnx", changed(onnx_of(small(4, nn.Softmax(1))), described))
    assert opened(path).class_names == CLASSES
    assert published_input(path).size == (32, 48)  # type: ignore[union-attr]
    plain = at(tmp_path / "plain.onnx", onnx_of(small()))
    assert (opened(plain).class_names, published_input(plain).size) == ((), (SIZE, SIZE))  # type: ignore[union-attr]


class Viewed(nn.Module):
    """Pads, and flattens by view(): the older exporter's graph of it leaves shapes open to inference."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3, 2), nn.AvgPool2d(8)), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.head(features.view(features.size(0), -1))


@pytest.mark.parametrize("make", [small, lambda: seeded(Viewed)])
@pytest.mark.parametrize("older", [True, False])
def test_a_fixed_batch_is_freed(older: bool, make: Callable[[], nn.Module], tmp_path: Path) -> None:
    network, x = make(), images(8) / 255
    opset = 13 if older else 18
    built = opened(at(tmp_path / "mine.onnx", onnx_of(network, opset=opset, older=older, batch=False)))
    built.prove(x)
    torch.testing.assert_close(logits_of(built, x), logits_of(network, x), rtol=0, atol=1e-5)


class Token(nn.Module):
    """Adds a token to those of an image, whose number the export fixes where it fixes the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 4)
        self.token = nn.Parameter(torch.rand(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1).mean(1))


@pytest.mark.parametrize("older", [True, False])
def test_a_batch_that_cannot_be_freed_is_refused(older: bool, tmp_path: Path) -> None:
    path = at(tmp_path / "mine.onnx", onnx_of(seeded(Token), older=older, batch=False))
    with pytest.raises(InputError, match="takes batches of 1 alone: export it with a dynamic batch"):
        opened(path).prove(images(8) / 255)


def test_a_conversion_that_answers_otherwise_is_refused_with_both_numbers(tmp_path: Path) -> None:
    built = opened(at(tmp_path / "mine.onnx", onnx_of(small())))
    split = Split(images(), logits_of(built, images() / 255).argmax(1))
    assert check_classifier(built, split, CLASSES, CPU) == 1
    with torch.no_grad():
        list(built.parameters())[-1].add_(0.5)
    with pytest.raises(InputError, match=r"onnx2pytorch differ by 0\.5 in their answers, whose spread is 0\.\d+; 1%"):
        check_classifier(built, split, CLASSES, CPU)


def changed(content: bytes, change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(content)
    change(model)
    return model.SerializeToString()


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("scale", 1, [1]))


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "com.microsoft"


def labels_alone(model: onnx.ModelProto) -> None:
    answer = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("ArgMax", [answer], ["label"], axis=1))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["n"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (second_input, r"has the inputs input float \['\w+', 3, 32, 32\], scale float \[1\], expected one, the images"),
        (foreign, "has operators of com.microsoft, which not every engine knows"),
        (labels_alone, r"has the outputs label int64 \['n'\], expected one of logits, floats \[N, K\]"),
    ],
)
def test_graphs_that_are_no_classifiers_are_refused(
    change: Callable[[onnx.ModelProto], object], message: str, tmp_path: Path
) -> None:
    content = changed(onnx_of(small()), change)
    with pytest.raises(InputError, match=message):
        opened(at(tmp_path / "mine.onnx", content))


def test_a_single_logit_becomes_two_classes_in_pytorch_and_in_the_graph(tmp_path: Path) -> None:
    x, network = images() / 255, small(1, nn.Sigmoid())
    built = opened(at(tmp_path / "mine.onnx", onnx_of(network)))
    logits = logits_of(built, x)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], logits_of(network, x), rtol=0, atol=1e-5)
    own = built.own_graph((3, SIZE, SIZE), opset=OPSET)
    assert own is not None
    np.testing.assert_allclose(run_graph(own, x), logits, rtol=0, atol=1e-5)


def test_a_float16_graph_that_casts_behind_its_softmax_is_taken(tmp_path: Path) -> None:
    """As converters to float16 leave it that keep the types of input and output."""
    value, x = onnx.helper.make_tensor_value_info, images(8) / 255
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.3, (3, 4)).astype(np.float16), "weight")
    steps = [
        ("Cast", ["input"], "half", {"to": onnx.TensorProto.FLOAT16}),
        ("GlobalAveragePool", ["half"], "pooled", {}),
        ("Flatten", ["pooled"], "flat", {"axis": 1}),
        ("MatMul", ["flat", "weight"], "dense", {}),
        ("Softmax", ["dense"], "shares", {"axis": -1}),
        ("Cast", ["shares"], "answer", {"to": onnx.TensorProto.FLOAT}),
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, given, [made], **how) for kind, given, made, how in steps],
        "half",
        [value("input", onnx.TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [value("answer", onnx.TensorProto.FLOAT, ["n", 4])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8)
    built = opened(at(tmp_path / "mine.onnx", model.SerializeToString()))
    built.prove(x)
    assert logits_of(built, x).dtype == torch.float32
    assert built.own_graph((3, SIZE, SIZE), opset=OPSET) is not None
