"""Each door with a real library's network, random weights: its answers, its checks, and its way back from a run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from helpers.files_of_models import BATCH, CLASSES, SIZE, images, keras_like, onnx_of, seeded, small
from helpers.small_data import RECIPE
from purify_edge.engines.onnxruntime import require
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.onnx_program import OPSET, check_exportable
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier, check_classifier
from purify_toolkit.runs.folder import RunFolder

CPU = torch.device("cpu")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx2pytorch")


def saved_resnet(folder: Path) -> nn.Module:
    """A network of transformers, saved with its processor."""
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
    )
    network = seeded(lambda: transformers.ResNetForImageClassification(config))
    network.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    transformers.ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half
    ).save_pretrained(folder)
    return network


def saved_vit(folder: Path) -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIZE,
        patch_size=8,
        id2label=dict(enumerate(CLASSES)),
    )
    network = seeded(lambda: transformers.ViTForImageClassification(config))
    network.save_pretrained(folder)
    return network


def of_timm(folder: Path) -> nn.Module:
    network = seeded(lambda: timm.create_model("resnet10t", num_classes=4))
    timm.models.save_for_hf(network, folder, model_config={"label_names": list(CLASSES)})
    return network


def program(folder: Path) -> nn.Module:
    network = seeded(lambda: get_model("resnet18", num_classes=4))
    exported = torch.export.export(network, (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=({0: BATCH},))
    torch.export.save(exported, folder / "mine.pt2")
    return network


def script(folder: Path) -> nn.Module:
    network = seeded(lambda: get_model("resnet18", num_classes=4))
    torch.jit.script(network).save(folder / "mine.pt")
    return network


def graph(folder: Path, **options: object) -> nn.Module:
    large = options.get("opset") == 13
    network = seeded(lambda: get_model("mobilenet_v3_small", num_classes=4)) if large else small()
    (folder / "mine.onnx").write_bytes(onnx_of(network, **options))
    return network


def from_python(folder: Path) -> nn.Module:
    (folder / "beside.py").write_text("from helpers.files_of_models import small\n")
    (folder / "mine.py").write_text("from beside import small\n\ndef build():\n    return small()\n")
    return small()


HALF = (0.5, 0.5, 0.5)
PRETRAINED = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DOORS: dict[str, tuple[str, Callable[[Path], nn.Module], tuple[tuple[float, ...], tuple[float, ...]] | None]] = {
    "file.py": ("{}/mine.py:build", from_python, None),
    "timm": ("timm:local-dir:{}", of_timm, PRETRAINED),
    "hf ResNet": ("hf:{}", saved_resnet, (HALF, HALF)),
    "hf ViT": ("hf:{}", saved_vit, None),
    "pt2": ("{}/mine.pt2", program, None),
    "TorchScript": ("{}/mine.pt", script, None),
    "onnx 13, older": ("{}/mine.onnx", lambda folder: graph(folder, opset=13, older=True), None),
    "onnx 18, older": ("{}/mine.onnx", lambda folder: graph(folder, older=True), None),
    "onnx 18": ("onnx:{}/mine.onnx", graph, None),
    "onnx 21": ("{}/mine.onnx", lambda folder: graph(folder, opset=21), None),
}


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        answer = network(x)
    return answer if isinstance(answer, Tensor) else answer.logits


def kept(classifier: PixelClassifier, source: ClassifierSource, folder: Path) -> RunFolder:
    """A run folder with a classifier."""
    folder.mkdir()
    info = dict.fromkeys(("recipe", "recipe_sha256", "seed", "limit", "dataset", "commit", "mean", "std"), 0)
    info |= {"class_names": CLASSES, "image_shape": [3, SIZE, SIZE], "classifier": source.as_dict()}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "recipe.toml").write_text(RECIPE)
    run = RunFolder(folder)
    run.save_classifier(classifier)
    return run


def run_graph(model: onnx.ModelProto, x: Tensor) -> np.ndarray:
    session = require().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x.numpy()})[0]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_gives_the_network_as_it_is_and_a_run_gives_it_again(door: str, tmp_path: Path) -> None:
    factory, make, normalisation = DOORS[door]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    network, pictures = make(theirs), images()
    x = pictures / 255
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in normalisation or ((0.0,), (1.0,)))
    expected = logits_of(network, (x - mean) / std)
    source = ClassifierSource(factory.format(theirs), own_weights=False)
    built = build_classifier(source, channels=3, class_names=CLASSES)
    assert check_classifier(built, Split(pictures, expected.argmax(1)), CLASSES, CPU) == 1
    torch.testing.assert_close(logits_of(built, x), expected, rtol=1e-4, atol=1e-4)
    check_exportable(built, (3, SIZE, SIZE))
    run = kept(built, source, tmp_path / "run")
    theirs.rename(tmp_path / "elsewhere")
    if door == "file.py":  # the code is the user's, as that of a module is
        (tmp_path / "elsewhere").rename(theirs)
    assert run.has("classifier")
    again = run.load_classifier()
    torch.testing.assert_close(logits_of(again, x), logits_of(built, x), rtol=0, atol=1e-6)
    own = again.own_graph((3, SIZE, SIZE), opset=OPSET)
    assert (own is not None) == (door[:4] in ("onnx", "Torc"))
    if own is not None:
        np.testing.assert_allclose(run_graph(own, x), expected, rtol=0, atol=1e-4)


def test_a_graph_that_takes_bgr_gets_it(tmp_path: Path) -> None:
    keras_like(tmp_path / "mine.onnx")
    x = images(8) / 255
    source = ClassifierSource(str(tmp_path / "mine.onnx"), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), own_weights=False)
    rgb, bgr = (
        build_classifier(replace(source, colour=colour), channels=3, class_names=CLASSES) for colour in ("rgb", "bgr")
    )
    bgr.prove(x)
    expected = logits_of(rgb, x.flip(1))
    torch.testing.assert_close(logits_of(bgr, x), expected)
    own = bgr.own_graph((3, SIZE, SIZE), opset=OPSET)
    assert own is not None
    np.testing.assert_allclose(run_graph(own, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"uint8": True}, {"softmax": False}, {"batch": 1}, {"batch": 2, "uint8": True}]
)
def test_graphs_of_keras_are_adapted(options: dict[str, object], tmp_path: Path) -> None:
    keras_like(tmp_path / "mine.onnx", **options)
    original, x = onnx.load(tmp_path / "mine.onnx"), images(8)
    session = require().InferenceSession(original.SerializeToString(), providers=["CPUExecutionProvider"])
    given = x.permute(0, 2, 3, 1).numpy() if options.get("uint8") else (x / 255).permute(0, 2, 3, 1).numpy()
    parts = np.split(given, 8 // int(options.get("batch", 8)))
    expected = np.concatenate([session.run(None, {"input": part})[0] for part in parts])
    built = build_classifier(
        ClassifierSource(str(tmp_path / "mine.onnx"), own_weights=False), channels=3, class_names=CLASSES
    )
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
