"""From pictures of odd sizes to a bundle: training and device make the same pixels of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from helpers.small_data import RECIPE
from purify_edge.bundle.manifest import Preprocessing
from purify_edge.bundle.reader import Bundle
from purify_edge.images.sources import open_source
from purify_export.cli import main as export_command
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.cli import main as train_command

SIZES = [(31, 17), (16, 45), (40, 40), (20, 16), (1, 9), (90, 3), (22, 57), (16, 16)]
FLAGS = ["--size", "16x20", "--resize", "shortest", "--crop", "0.8", "--interpolation", "bicubic"]
PUBLISHED = Preprocessing(resize="shortest", scaled=(20, 25), interpolation="bicubic")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of two tints, in files of odd sizes."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for index in range(24):
                width, height = SIZES[index % len(SIZES)]
                pixels = generator.integers(0, 100, (height, width, 3), np.uint8)
                pixels[..., 2 * label] += 150
                suffix = ("jpg", "png", "webp")[index % 3]
                Image.fromarray(pixels).save(folder / split / name / f"{index:02}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def trained_on_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[str], str]:
    """The run, the command, and what it told."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "mine.toml").write_text(RECIPE.replace('"fashion-mnist"', '"image-folder"'))
    command = [str(folder / "mine.toml"), "--data", str(photos), "--out", str(folder / "run"), *FLAGS]
    done = CliRunner().invoke(train_command, command)
    assert done.exit_code in (0, 1), done.stderr  # so small a training may end in harm
    return RunFolder(folder / "run"), command, done.stderr


def test_training_says_and_keeps_how_pictures_become_its_input(
    trained_on_photos: tuple[RunFolder, list[str], str],
) -> None:
    run, command, told = trained_on_photos
    assert run.input.preprocessing == PUBLISHED
    assert "pictures: scaled to cover 20 x 25, centre 16 x 20, bicubic\n" in told
    resumed = CliRunner().invoke(train_command, [*command, "--resume"])
    assert resumed.exit_code in (0, 1), resumed.stderr
    assert "is of another training" not in resumed.stderr
    other = CliRunner().invoke(train_command, [*command, "--resume", "--resize", "letterbox"])
    assert other.exit_code == 2
    assert "is of another training (preprocessing: {" in other.stderr


def test_a_base_brings_its_way(trained_on_photos: tuple[RunFolder, list[str], str]) -> None:
    run, command, _ = trained_on_photos
    again = [*command[:3], "--out", f"{run.path}-again", "--base", str(run.path), "--size", "16x20"]
    done = CliRunner().invoke(train_command, again)
    assert done.exit_code in (0, 1), done.stderr
    assert RunFolder(Path(f"{run.path}-again")).input == run.input
    other = CliRunner().invoke(train_command, [*again, "--force", "--resize", "stretch"])
    assert other.exit_code == 2
    assert "does not fit: its preprocessing is" in other.stderr


def test_device_and_training_make_the_same_pixels(
    trained_on_photos: tuple[RunFolder, list[str], str], photos: Path, tmp_path: Path
) -> None:
    run, _, _ = trained_on_photos
    out = tmp_path / "bundle"
    done = CliRunner().invoke(export_command, [str(run.path), "--out", str(out), "--targets", "onnx", "--fp16"])
    assert done.exit_code in (0, 1), done.stderr
    assert "scaled to cover 20 x 25, centre 16 x 20, bicubic" in done.stdout
    bundle = Bundle.open(next(tmp_path.glob("bundle*")), allow_failed=True)
    assert bundle.manifest.input == run.input
    (source,) = open_source(str(photos / "test"))
    device = [item.read(bundle.manifest.input).transpose(2, 0, 1) for item in source.items()]
    data = load_data_of(run, photos)
    assert data.sha256() == run.info["data_sha256"]  # of what was trained on
    test = data.test
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(np.stack(device), test.images[order.argsort()].numpy())
    graphs = [onnx.load_model_from_string(bundle.read(model.file)) for model in bundle.manifest.models]
    assert len({graph.metadata_props[0].value for graph in graphs}) == 1


def test_what_an_image_processor_says_is_taken_over(photos: Path, tmp_path: Path) -> None:
    """Of a small network of Hugging Face, fine-tuned on pictures that its own processor made."""
    transformers = pytest.importorskip("transformers", minversion="5")
    names = {0: "cat", 1: "dog"}
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=names
    )
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(config)
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.8)
    files = sorted((photos / "train").rglob("*.*"))
    pixels = processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")["pixel_values"]
    labels = torch.tensor([int(file.parent.name == "dog") for file in files])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        network(pixels, labels=labels).loss.backward()
        optimizer.step()
    for part in (network, processor):
        part.save_pretrained(tmp_path / "theirs")
    (tmp_path / "mine.toml").write_text(RECIPE.replace('"fashion-mnist"', '"image-folder"'))
    command = [str(tmp_path / "mine.toml"), "--data", str(photos), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(train_command, [*command, "--classifier", f"hf:{tmp_path / 'theirs'}"])
    assert done.exit_code in (0, 1), done.stderr
    run = RunFolder(tmp_path / "run")
    assert run.input.way == "scaled to cover 20 x 20, centre 16 x 16, bicubic"
    assert run.input.preprocessing.centre == "down"
    network.eval()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    test = load_data_of(run, photos).test
    theirs = [Image.open(file).convert("RGB") for file in sorted((photos / "test").rglob("*.*"))]
    with torch.no_grad():
        expected = network(processor(theirs, return_tensors="pt")["pixel_values"]).logits
        found = run.load_classifier()(test.images[order.argsort()] / 255)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_another_size_keeps_the_way(trained_on_photos: tuple[RunFolder, list[str], str], tmp_path: Path) -> None:
    run, _, _ = trained_on_photos
    command = [str(run.path), "--out", str(tmp_path / "bundle"), "--targets", "onnx", "--size", "32x40"]
    done = CliRunner().invoke(export_command, command)
    assert done.exit_code in (0, 1), done.stderr
    manifest = Bundle.open(next(tmp_path.glob("bundle*")), allow_failed=True).manifest
    assert manifest.input.preprocessing == Preprocessing(resize="shortest", scaled=(40, 50), interpolation="bicubic")
    assert manifest.golden.resized.startswith("from 16x20 by Pillow's bicubic")
