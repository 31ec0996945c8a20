from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.check.check import check_bundle
from purify_edge.check.page import examples as module
from purify_edge.check.page.examples import Shown, examples_of
from purify_edge.check.page.not_checked import not_checked
from purify_edge.check.subject import subject_of

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


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_purifier_that_gives_no_numbers_is_shown_all_the_same(value: float) -> None:
    shown = sample()
    purified, probabilities = shown["purified"]
    shown["purified"] = np.full_like(purified, value), probabilities
    assert not examples_of(shown, LABELS, NAMES)[0].pictures[2].image.any()


def test_there_are_none_without_attacked_images(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(bundle_path)
    golden = {"clean": load_golden(bundle)["clean"]}
    monkeypatch.setattr("purify_edge.check.subject.load_golden", lambda bundle: golden)
    report = msgspec.json.decode((bundle_path / "report.json").read_bytes(), type=Report)
    assert subject_of(bundle, report).examples == ()


def test_the_subject_is_what_the_first_engine_of_the_report_sees(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    report = msgspec.json.decode((bundle_path / "report.json").read_bytes(), type=Report)
    found = subject_of(bundle, report)
    assert (found.manifest, found.verified) == (bundle.manifest, False)
    assert len(found.examples) == 8
    golden = load_golden(bundle)
    for index, example in enumerate(found.examples):
        outputs = (golden["clean"].classifier, golden["adversarial"].classifier, golden["adversarial"].defended)
        named = [bundle.manifest.class_names[output[index].argmax()] for output in outputs]
        assert [picture.word for picture in example.pictures] == named  # the words of the reference
    half = tuple(row for row in report.parity if row.precision == "fp16" and row.engine == "onnxruntime")
    other = subject_of(replace(bundle, verified=True), msgspec.structs.replace(report, parity=half))
    assert other.verified
    seen, full = (subject.examples[0].pictures[2].probability for subject in (other, found))
    assert 0 < abs(seen - full) < 0.01


def test_on_a_gpu_the_examples_are_what_its_engines_see(imitate: Callable[..., Any], bundle_copy: Path) -> None:
    world = imitate()
    bundle = Bundle.open(bundle_copy)
    report = check_bundle(bundle, engine="rtx", precisions=("fp32",), rounds=0)
    builds = len(world.builds)
    found = subject_of(Bundle.open(bundle_copy), report)
    assert len(world.builds) == builds  # what the check built is loaded
    assert len(found.examples) == 8
    assert "engines for rtx" not in dict(not_checked(report, found))
