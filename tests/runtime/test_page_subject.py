from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.check.check import check_bundle
from purify_edge.check.page import subject as module
from purify_edge.check.page.subject import examples_of, subject_of
from purify_edge.check.page.unchecked import unchecked
from purify_edge.pipeline.pipeline import Pipeline


@pytest.fixture(scope="module")
def golden(bundle_path: Path) -> dict[str, GoldenSplit]:
    return load_golden(Bundle.open(bundle_path))


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle_path) as pipeline:
        yield pipeline


def test_examples_show_the_first_golden_images_with_the_words_of_the_reference(
    pipeline: Pipeline, golden: dict[str, GoldenSplit]
) -> None:
    examples = examples_of(pipeline, golden)
    clean, attacked = golden["clean"], golden["adversarial"]
    names = pipeline.class_names
    assert [example.number for example in examples] == [*range(1, 9)]
    for index, example in enumerate(examples):
        label = int(clean.labels[index])
        assert example.label == names[label]
        assert [picture.title for picture in example.pictures] == ["clean", "adversarial", "purified"]
        words = [part[index].argmax() for part in (clean.classifier, attacked.classifier, attacked.defended)]
        assert [picture.word for picture in example.pictures] == [names[word] for word in words]
        assert [picture.right for picture in example.pictures] == [word == label for word in words]
        first, second, purified = example.pictures
        assert np.array_equal(first.image, clean.images[index])
        assert np.array_equal(second.image, attacked.images[index])
        difference = purified.image.transpose(2, 0, 1) / 255 - attacked.purified[index]
        assert np.abs(difference).max() < 0.51 / 255 + 1e-3


def test_large_images_are_fewer(
    pipeline: Pipeline, golden: dict[str, GoldenSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIXELS", 3 * 28 * 28 * 4)
    assert len(examples_of(pipeline, golden)) == 4
    monkeypatch.setattr(module, "PIXELS", 1)
    assert len(examples_of(pipeline, golden)) == module.LEAST_EXAMPLES


def test_images_that_are_larger_than_the_page_shows_are_shrunk() -> None:
    large = np.zeros((1024, 512, 3), np.uint8)
    large[:512] = 200
    small = module._shown(large)
    assert small.shape == (256, 128, 3)
    assert (small[:128] == 200).all()
    assert not small[128:].any()
    assert module._shown(large[:, :, :1]).shape == (256, 128, 1)
    assert module._shown(small) is small


def test_there_are_none_without_attacked_images(pipeline: Pipeline, golden: dict[str, GoldenSplit]) -> None:
    assert examples_of(pipeline, {"clean": golden["clean"]}) == ()


def test_a_purifier_that_gives_no_numbers_is_shown_all_the_same(
    pipeline: Pipeline, golden: dict[str, GoldenSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(images: np.ndarray) -> object:
        prediction = Pipeline.predict(pipeline, images)
        return replace(prediction, purified=np.full_like(prediction.purified, np.nan))

    monkeypatch.setattr(pipeline, "predict", predict)
    assert not examples_of(pipeline, golden)[0].pictures[2].image.any()


def test_the_subject_is_what_the_first_engine_of_the_report_sees(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    report = msgspec.json.decode((bundle_path / "report.json").read_bytes(), type=Report)
    found = subject_of(bundle, report)
    assert (found.manifest, found.verified) == (bundle.manifest, False)
    assert len(found.examples) == 8
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
    assert "engines for rtx" not in dict(unchecked(report, found))
