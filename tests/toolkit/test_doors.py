"""Each door with a real library's network, random weights: its answers, its checks, and its way back from a run."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from helpers.files_of_models import (
    BATCH,
    CLASSES,
    SIZE,
    at,
    images,
    logits_of,
    onnx_of,
    opened,
    run_graph,
    seeded,
    small,
)
from helpers.small_data import RECIPE
from purify_edge.errors import InputError, MissingError
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.doors.doors import published_input
from purify_toolkit.networks.doors.exported_program import no_code
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


def program(folder: Path, name: str = "mine.pt2") -> nn.Module:
    network = seeded(lambda: get_model("resnet18", num_classes=4))
    exported = torch.export.export(network, (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=({0: BATCH},))
    content = io.BytesIO()
    torch.export.save(exported, content)
    (folder / name).write_bytes(content.getvalue())
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
    "pt2 by another name": ("{}/mine.pt", lambda folder: program(folder, "mine.pt"), None),
    "TorchScript": ("{}/mine.pt", script, None),
    "onnx 13, older": ("{}/mine.onnx", lambda folder: graph(folder, opset=13, older=True), None),
    "onnx 18, older": ("{}/mine.onnx", lambda folder: graph(folder, older=True), None),
    "onnx 18": ("onnx:{}/mine.onnx", graph, None),
    "onnx 21": ("{}/mine.onnx", lambda folder: graph(folder, opset=21), None),
}


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


@pytest.mark.parametrize("factory", ["timm:no_such_network", "torchvision:no_such_network:DEFAULT"])
def test_a_name_that_nobody_knows_is_refused_before_anything_is_read(factory: str) -> None:
    with pytest.raises(InputError, match=f"--classifier {factory} failed"):
        published_input(factory)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('code was run')",)


def test_a_program_is_read_without_running_code_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = io.BytesIO()
    torch.save(_Evil(), content)
    with no_code(), pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(content.getvalue()), weights_only=False)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
