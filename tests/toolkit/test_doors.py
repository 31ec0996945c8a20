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
from torchvision.models import get_model, get_model_weights

from helpers.files_of_models import BATCH, CLASSES, SIZE, images, keras_like, onnx_of, seeded, small
from helpers.small_data import RECIPE
from purify_edge.engines.onnxruntime import require
from purify_edge.errors import InputError, MissingError
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.doors.doors import published_input
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
    built = build_classifier(source, channels=3, classes=4)
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
    rgb, bgr = (build_classifier(replace(source, colour=colour), channels=3, classes=4) for colour in ("rgb", "bgr"))
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


def at(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def opened(factory: str) -> PixelClassifier:
    return build_classifier(ClassifierSource(factory, own_weights=False), channels=3, classes=4).eval()


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.onnx", b"no graph", "is no ONNX graph"),
        ("mine.pt2", b"no program", r"is no program of torch\.export"),
        ("mine.pt", b"no zip", "is no network but weights: give them by --weights"),
        ("mine.py:build", b"build = int", "mine.py:build gave a int, expected a torch.nn.Module"),
        ("mine.py:absent", b"build = int", "has no 'absent'"),
    ],
)
def test_files_of_something_else_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    at(tmp_path / name.partition(":")[0], content)
    with pytest.raises(InputError, match=message):
        opened(str(tmp_path / name))
    (tmp_path / name.partition(":")[0]).unlink()
    with pytest.raises(InputError, match=r"[Nn]o such file"):
        opened(str(tmp_path / name))


def test_a_program_for_one_image_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(small(), (torch.rand(1, 3, SIZE, SIZE),)), tmp_path / "mine.pt2")
    with pytest.raises(
        InputError, match=r"takes batches of 1 only, expected any: export it by torch\.export\.export\("
    ):
        opened(str(tmp_path / "mine.pt2"))


def test_a_single_logit_becomes_two_classes_in_pytorch_and_in_the_graph(tmp_path: Path) -> None:
    x, network = images() / 255, small(1, nn.Sigmoid())
    built = opened(at(tmp_path / "mine.onnx", onnx_of(network)))
    logits = logits_of(built, x)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], logits_of(network, x), rtol=0, atol=1e-5)
    own = built.own_graph((3, SIZE, SIZE), opset=OPSET)
    assert own is not None
    np.testing.assert_allclose(run_graph(own, x), logits, rtol=0, atol=1e-5)


def test_published_weights_come_from_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = get_model_weights("squeezenet1_1")["DEFAULT"]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(get_model("squeezenet1_1").state_dict(), cache / Path(weights.url).name)
    built = opened("torchvision:squeezenet1_1:DEFAULT")
    assert built.class_names == tuple(weights.meta["categories"])
    assert built.mean.flatten().tolist() == pytest.approx(PRETRAINED[0])
    assert published_input("torchvision:squeezenet1_1:DEFAULT").size == (224, 224)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="squeezenet1_1 has the weights IMAGENET1K_V1"):
        opened("torchvision:squeezenet1_1:BEST")


@pytest.mark.parametrize("name", ["torchvision:resnet18:DEFAULT", "timm:resnet10t.c3_in1k", "hf:nobody/nothing"])
def test_weights_that_cannot_be_downloaded_are_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingError, match=f"the weights of {name[:11]}.* nor to be downloaded") as caught:
        opened(name)
    assert caught.value.exit_code == 3


def test_a_network_that_takes_no_empty_batch_is_taken_and_attacked() -> None:
    network = seeded(lambda: timm.create_model("efficientformerv2_s0", num_classes=4))
    torch.manual_seed(0)
    built = build_classifier(ClassifierSource("timm:efficientformerv2_s0"), channels=3, classes=4).eval()
    built.network.load_state_dict(network.state_dict())
    with pytest.raises(RuntimeError):
        built(torch.rand(0, 3, 224, 224))
    pictures = torch.randint(0, 256, (12, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = logits_of(built, pictures / 255).argmax(1)
    assert check_classifier(built, Split(pictures, labels), CLASSES, CPU) == 1
    attack = PGD(epsilon=0.1, steps=1, relative_step=1.0)
    for chosen in (slice(0), slice(1)):  # a training attacks a part of its batch, at times none of it
        found = attack(built, pictures[chosen] / 255, labels[chosen], generator=torch.Generator().manual_seed(1))
        assert found.shape == pictures[chosen].shape
