"""A user's job with the recipe as it ships: 300 JPEGs of many sizes and a classifier, to a checked bundle."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.fixtures import Run
from helpers.user_models import Enlarged
from purify_edge.engines.tensorrt.library import installed_builders
from purify_toolkit.runs.pretrained import open_run

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
NAMES = ("ankle", "bag", "coat", "dress", *"efghij")
TRAIN, TEST = 300, 100


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured photographs of clothes, enlarged to many sizes, and the weights of a classifier that knows them."""
    folder = tmp_path_factory.mktemp("photographs")
    samples, sizes = open_run(None).load_samples(), torch.Generator().manual_seed(0)
    for index, (image, label) in enumerate(zip(samples.images, samples.labels.tolist(), strict=True)):
        if index >= TRAIN + TEST:
            break
        width, height = torch.randint(48, 90, (2,), generator=sizes).tolist()
        picture = Image.fromarray(image[0].numpy()).resize((width, height), Image.Resampling.BICUBIC)
        path = folder / "images" / ("train" if index < TRAIN else "test") / NAMES[label] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.merge("RGB", [picture] * 3).save(path, quality=92)
    network = Enlarged()
    network.classifier.load_state_dict(open_run(None).load_classifier().state_dict())
    torch.save(network.state_dict(), folder / "mine.pt")
    return folder


def _train(run: Run, photographs: Path, out: Path, *options: str) -> tuple[int, str]:
    """Train with the recipe that ships; return the exit code and what was said."""
    given = ("--data", photographs / "images", "--size", "32x32", "--weights", photographs / "mine.pt", "--out", out)
    own = ("--classifier", "helpers.user_models:Enlarged")
    code, _, err = run("purify-train", "image-folder", *given, *own, *options, env=ENVIRONMENT)
    return code, err


@pytest.mark.slow
def test_a_few_hundred_photographs_give_a_purifier_that_does_no_harm(
    run: Run, photographs: Path, tmp_path: Path
) -> None:
    out, bundle = tmp_path / "run", tmp_path / "bundle"
    code, err = _train(run, photographs, out)
    assert code == 0, err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["harm"] == []
    right = {(row["threat"], row["defended"]): row["accuracy"] for row in metrics["rows"]}
    assert right["clean", True] >= right["clean", False] - 0.06  # of 100 images
    assert right["grey-box", True] >= right["grey-box", False] + 0.1
    code, _, err = run("purify-export", out, "--out", bundle, env=ENVIRONMENT)
    assert code == 0, err
    if "tensorrt_rtx" in installed_builders():  # whose parser refuses the classifier's antialiased resize
        assert "no TensorRT for RTX" in err
        assert "Antialiasing is not supported" in err
        code, _, err = run("purify-export", out, "--targets", "rtx", "--out", tmp_path / "rtx", env=ENVIRONMENT)
        assert code == 2
        assert "Error: TensorRT for RTX" in err
    code, _, err = run("purify-check", bundle, "--rounds", 1)
    assert code == 0, err


@pytest.mark.slow
def test_so_few_steps_from_scratch_do_harm_and_say_so(run: Run, photographs: Path, tmp_path: Path) -> None:
    code, err = _train(run, photographs, tmp_path / "run", "--from-scratch")
    assert code == 1
    assert "points of clean accuracy, more than 3" in err
    assert "The student took 240 steps of 8 images" in err
