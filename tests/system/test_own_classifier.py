"""The whole path with a user's own images and classifier: train, export, check, run."""

import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

from helpers.files_of_models import onnx_of
from helpers.fixtures import Run
from helpers.refusals import refusal
from helpers.small_data import RECIPE
from helpers.user_models import trained_tiny
from purify_edge.files import file_sha256
from purify_toolkit.runs.pretrained import open_run

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: images by split and class, a recipe, and the weights of a trained classifier."""
    folder = tmp_path_factory.mktemp("user")
    samples, names = open_run(None).load_samples(), ["ankle", "bag", "coat", "dress", "e", "f", "g", "h", "i", "j"]
    for index, (image, label) in enumerate(zip(samples.images, samples.labels.tolist(), strict=True)):
        path = folder / "images" / ("train" if index < 800 else "test") / names[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    (folder / "mine.toml").write_text(RECIPE.replace('"fashion-mnist"', '"image-folder"'))
    network = trained_tiny(0.3, 0.35, epochs=6)
    torch.save(network.state_dict(), folder / "mine.pt")
    with_softmax = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
    (folder / "mine.onnx").write_bytes(onnx_of(with_softmax, opset=13, older=True, channels=1, size=28))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["code", "ONNX"])
def test_a_users_own_classifier_gets_its_purifier(run: Run, user: Path, tmp_path: Path, kind: str) -> None:
    paths = (str(TESTS), os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    out, bundle = tmp_path / "run", tmp_path / "bundle"
    data = (user / "mine.toml", "--data", user / "images", "--out", out)
    options: tuple[object, ...] = ("--classifier", "helpers.user_models:Tiny", "--weights", user / "mine.pt")
    if kind == "ONNX":
        options = ("--classifier", shutil.copy(user / "mine.onnx", tmp_path))
    others = ("--mean", "0.3", "--std", "0.35", "--max-clean-drop", "0.2")
    code, _, err = run("purify-train", *data, *options, *others, env=environment)
    assert code == 0, err
    assert "checking the classifier: epoch 1/1  right on" in err
    (tmp_path / "mine.onnx").unlink(missing_ok=True)  # the run keeps it
    code, _, err = run("purify-train", *data, *options, *others, "--resume", env=environment)
    assert code == 0, err
    code, _, err = run("purify-export", out, "--fp16", "--out", bundle, env=environment)
    assert code == 0, err
    page = tmp_path / "report.html"
    # The device needs no module of the user's.
    code, printed, err = run("purify-check", bundle, "--json", "--rounds", 1, "--report", page)
    assert code == 0, err
    assert "✓ Parity passed" in page.read_text()
    assert "<bdi>ankle</bdi>" in page.read_text()
    accuracy = {
        (row["role"], row["split"]): row["accuracy_reference"]
        for row in json.loads(printed)["parity"]
        if row["precision"] == "fp32"
    }
    assert accuracy["classifier", "clean"] > 0.6
    image = next((user / "images" / "test" / "bag").iterdir())
    code, printed, err = run("purify-run", bundle, image, "--json")
    assert code == 0, err
    assert json.loads(printed)["unpurified_class"] in ("ankle", "bag", "coat", "dress", *"efghij")
    origin = json.loads((bundle / "manifest.json").read_text())["provenance"]["run"]["classifier"]
    assert origin["factory"] == str(options[1])
    if kind == "ONNX":
        assert origin["file_sha256"] == file_sha256(user / "mine.onnx")
        assert origin["file_sha256"] in page.read_text()
        theirs, ours = (
            {tensor.name: tensor.raw_data for tensor in onnx.load(path).graph.initializer}
            for path in (user / "mine.onnx", bundle / "models" / "classifier.fp32.onnx")
        )
        assert theirs
        assert theirs.items() <= ours.items()


def test_without_the_users_module_the_error_says_so(run: Run, user: Path, tmp_path: Path) -> None:
    done = run(
        "purify-train",
        user / "mine.toml",
        *("--data", user / "images", "--out", tmp_path / "run"),
        *("--classifier", "helpers.user_models:Tiny", "--weights", user / "mine.pt"),
    )
    assert "no module 'helpers' here or installed" in refusal(*done)
    assert list(tmp_path.iterdir()) == []
