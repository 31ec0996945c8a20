from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.fixtures import Imitate
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import check_with_examples
from purify_edge.check.comparison import Comparison
from purify_edge.check.page import examples as module
from purify_edge.check.page.examples import Shown, examples_of, subject_of
from purify_edge.check.page.not_checked import not_checked
from purify_edge.pipeline.prediction import softmax

NAMES = ("boot", "shoe", "bag")


def sample(count: int = 9, channels: int = 1) -> dict[str, Shown]:
    """Three stages of some images; the class that is named is the image's number, the stage's, or the latter's next."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 8, 6, channels), dtype=np.uint8)
    purified = (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    probabilities = np.eye(3, dtype=np.float32)[np.arange(count) % 3]
    return {
        "clean": (pixels, probabilities),
        "adversarial": (255 - pixels, np.roll(probabilities, 1, axis=1)),
        "purified": (purified, 0.75 * probabilities),
    }


LABELS = np.arange(9) % 3


def test_examples_show_the_first_images_stage_by_stage() -> None:
    shown = sample()
    examples = examples_of(shown, LABELS, NAMES)
    assert [example.number for example in examples] == [*range(1, 9)]
    for index, example in enumerate(examples):
        label = index % 3
        assert example.label == NAMES[label]
        assert [picture.title for picture in example.pictures] == list(shown)
        assert [picture.word for picture in example.pictures] == [NAMES[label], NAMES[(label + 1) % 3], NAMES[label]]
        assert [picture.right for picture in example.pictures] == [True, False, True]
        assert [picture.probability for picture in example.pictures] == [1.0, 1.0, 0.75]
        first, second, purified = example.pictures
        assert np.array_equal(first.image, shown["clean"][0][index])
        assert np.array_equal(second.image, shown["adversarial"][0][index])
        assert np.array_equal(purified.image, first.image)  # its floats, rounded


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXELS", 3 * 8 * 6 * 4)
    assert len(examples_of(sample(), LABELS, NAMES)) == 4
    monkeypatch.setattr(module, "PIXELS", 1)
    assert len(examples_of(sample(), LABELS, NAMES)) == module.LEAST_EXAMPLES
    assert len(examples_of(sample(1), LABELS[:1], NAMES)) == 1


def test_images_that_are_larger_than_the_page_shows_are_shrunk() -> None:
    large = np.zeros((1024, 512, 3), np.uint8)
    large[:512] = 200
    small = module._shown(large)
    assert small.shape == (256, 128, 3)
    assert (small[:128] == 200).all()
    assert not small[128:].any()
    assert module._shown(large[:, :, :1]).shape == (256, 128, 1)
    assert module._shown(small) is small


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_images_that_are_no_pictures_are_not_shown(channels: int) -> None:
    assert examples_of(sample(channels=channels), LABELS, NAMES) == ()


@pytest.mark.parametrize(("value", "pixel"), [(np.nan, 0), (-np.inf, 0), (np.inf, 255)])
def test_a_purifier_that_gives_no_numbers_is_shown_all_the_same(value: float, pixel: int) -> None:
    shown = sample()
    purified, probabilities = shown["purified"]
    shown["purified"] = np.full_like(purified, value), probabilities
    assert (examples_of(shown, LABELS, NAMES)[0].pictures[2].image == pixel).all()


def test_there_are_none_without_attacked_images(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    assert subject_of(bundle, {"clean": load_golden(bundle)["clean"]}, Comparison()).examples == ()


@pytest.mark.parametrize(("precision", "verified"), [("fp32", False), ("fp16", True)])
def test_a_check_gives_examples_of_its_first_engine(bundle_path: Path, precision: str, verified: bool) -> None:
    bundle = replace(Bundle.open(bundle_path), verified=verified)
    _, found = check_with_examples(bundle, engine="onnxruntime", precisions=(precision,), rounds=0)
    assert (found.manifest, found.verified) == (bundle.manifest, verified)
    assert len(found.examples) == 8
    golden = load_golden(bundle)
    reference = (golden["clean"].classifier, golden["adversarial"].classifier, golden["adversarial"].defended)
    for index, example in enumerate(found.examples):
        named = [bundle.manifest.class_names[output[index].argmax()] for output in reference]
        assert [picture.word for picture in example.pictures] == named
        probabilities = [softmax(output[index : index + 1]).max() for output in reference]
        error = np.abs(np.subtract([picture.probability for picture in example.pictures], probabilities)).max()
        assert error < 1e-5 if precision == "fp32" else error < 0.01


def test_on_a_gpu_the_examples_are_what_its_engines_see(imitate: Imitate, bundle_copy: Path) -> None:
    world = imitate()
    report, found = check_with_examples(Bundle.open(bundle_copy), engine="rtx", precisions=("fp32",), rounds=0)
    assert world.builds
    assert len(found.examples) == 8
    assert "engines for rtx" not in dict(not_checked(report, found))
