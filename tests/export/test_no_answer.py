"""An image for which the classifier gives NaN has no answer, in export, check, run and in Python."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.trained import CLASSES, SIDE, quadrants
from purify_edge.errors import InputError
from purify_edge.pipeline.pipeline import Pipeline
from purify_export.export import export

Run = Callable[..., tuple[int, str, str]]
SPLIT = quadrants(channels=3, count=500)
IMAGES, LABELS = SPLIT.images.permute(0, 2, 3, 1).numpy().copy(), SPLIT.labels.numpy()


class Standardised(nn.Module):
    """A classifier that divides by each image's own standard deviation: by 0 for a black one.

    It has no ReLU, in which ONNX Runtime and OpenVINO turn NaN into 0: then nothing can be seen of it.
    """

    def __init__(self) -> None:
        super().__init__()
        quadrants = torch.arange(CLASSES).reshape(2, 2).repeat_interleave(SIDE // 2, 0).repeat_interleave(SIDE // 2, 1)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
        self.classifier[1].weight.data = torch.stack(
            [(quadrants == k).float().expand(3, -1, -1).flatten() for k in range(CLASSES)]
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True)
        centred = x - mean
        scaled = centred / (centred * centred).mean((1, 2, 3), keepdim=True).sqrt()
        return self.classifier(scaled / 4 + 0.5)


class Darker(nn.Module):
    """A purifier under which a black image stays one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.8 + 0.2 * x)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A bundle whose images for the threshold hold a black one, and what the export told."""
    told: list[str] = []
    out = tmp_path_factory.mktemp("nan") / "bundle"
    extra = np.concatenate([IMAGES[256:436], np.zeros_like(IMAGES[:1])])
    labels = np.append(LABELS[256:436], 0)
    result = export(
        Darker().eval(),
        Standardised().eval(),
        IMAGES[:256],
        LABELS[:256],
        out=out,
        calibration=(extra, labels),
        targets=["onnx"],
        rounds=0,
        tell=told.append,
    )
    assert result.report.passed
    return out, told


def test_the_threshold_is_set_by_the_images_that_have_an_answer(bundle: tuple[Path, list[str]]) -> None:
    assert any("set by 180 clean images (for 1 more the classifier gives logits" in line for line in bundle[1])


def test_in_python_it_is_a_label_of_minus_one(bundle: tuple[Path, list[str]]) -> None:
    images = np.stack([IMAGES[0], np.zeros_like(IMAGES[0]), IMAGES[1]])
    with Pipeline.load(bundle[0], precision="fp32") as pipeline:
        prediction, labels = pipeline.predict(images), pipeline.labels(images)
        expected = pipeline.predict(images[[0, 2]])
        first, last = (pipeline.class_names[label] for label in expected.labels)
        assert pipeline.names_of(labels) == [first, None, last]
    assert prediction.labels.tolist() == labels.tolist() == [expected.labels[0], -1, expected.labels[1]]
    assert np.isnan(prediction.probabilities[1]).all()
    assert prediction.suspicious is not None
    assert prediction.suspicious[1]
    np.testing.assert_allclose(prediction.probabilities[[0, 2]], expected.probabilities, atol=1e-5)


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_in_a_run_it_is_an_error_of_that_image(
    run: Run, bundle: tuple[Path, list[str]], tmp_path: Path, form: str
) -> None:
    for name, pixels in {"a": IMAGES[0], "black": np.zeros_like(IMAGES[0]), "c": IMAGES[1]}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    code, out, _ = run("purify-run", bundle[0], tmp_path, form, "--save", tmp_path / "out")
    assert code == 1
    assert "NaN" not in out
    assert "nan" not in out.lower().replace("finite", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    if form == "--json":
        errors = [json.loads(line).get("error") for line in out.splitlines()]
        assert errors == [None, f"{tmp_path}/black.png: the classifier's answer is not finite", None]


def test_golden_images_without_an_answer_are_refused(tmp_path: Path) -> None:
    images = IMAGES[:256].copy()
    images[3] = 0
    with pytest.raises(InputError, match="not finite for 1 of 256 golden images"):
        export(
            Darker().eval(),
            Standardised().eval(),
            images,
            LABELS[:256],
            out=tmp_path / "bundle",
            targets=["onnx"],
            rounds=0,
        )


def test_the_standardised_classifier_is_as_described() -> None:
    logits = Standardised().eval()(torch.zeros(1, 3, SIDE, SIDE))
    assert logits.isnan().all()
