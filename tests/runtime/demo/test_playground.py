"""Attacks on the bundle that ships, what comes of them, and how it is written; without Gradio."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.demo.attacks import NONE, QUERIES, STORED, TRICKS, Victim
from purify_edge.demo.playground import MAX_UPLOAD_BYTES, Outcome, Playground
from purify_edge.demo.square import square_attack
from purify_edge.demo.view import error_html, outcome_html
from purify_edge.errors import InputError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.pipeline import Pipeline

ON_CLASSIFIER, ON_BOTH = "Square attack on the classifier", "Square attack on purifier and classifier"


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def playground(bundle_path: Path, pipeline: Pipeline) -> Playground:
    return Playground(Bundle.open(bundle_path), pipeline)


def outcomes(playground: Playground, attack: str, size: float = 0.1) -> list[Outcome]:
    return [playground.play(title, None, attack, size) for title in playground.samples]


def right(found: list[Outcome]) -> tuple[int, int]:
    """How many are right without the purifier, and with it."""
    before, after = (
        sum(int(getattr(one, name).argmax() == one.truth) for one in found) for name in ("before", "after")
    )
    return before, after


def test_there_are_two_examples_of_each_class(playground: Playground) -> None:
    labels = [sample.label for sample in playground.samples.values()]
    assert labels == [label for label in range(10) for _ in range(2)]


def test_the_stored_attack_takes_the_classifier_in_and_the_purifier_mends_it(playground: Playground) -> None:
    found = outcomes(playground, STORED)
    before, after = right(found)
    assert before == 0
    assert after >= 12
    assert all(one.suspicion > one.threshold for one in found if one.suspicion and one.threshold)
    for one, sample in zip(found, playground.samples.values(), strict=True):
        np.testing.assert_array_equal(one.image, sample.attacked)


def test_square_takes_in_what_it_attacks(playground: Playground) -> None:
    """Grey-box it breaks the classifier, and the purifier helps; white-box it breaks both."""
    clean, grey, white = (right(outcomes(playground, name)) for name in (NONE, ON_CLASSIFIER, ON_BOTH))
    assert grey[0] <= 2
    assert grey[1] >= clean[1] - 2
    assert white[1] <= 6


@pytest.mark.parametrize("size", [1 / 255, 0.05, 0.1])
def test_square_stays_within_its_size_and_its_queries(
    pipeline: Pipeline, adversarial: GoldenSplit, size: float
) -> None:
    asked = 0

    def logits(x: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(x)
        return pipeline.planned.logits(x)

    for image in adversarial.images[:6]:
        start = asked
        x = as_batch(image[None], pipeline.input)[0]
        found = square_attack(logits, x, label=None, epsilon=size, queries=60, seconds=60, seed=1)
        assert found.queries == asked - start <= 60
        assert np.abs(found.image - x).max() <= size + 0.002
        assert 0 <= found.image.min() <= found.image.max() <= 1
        np.testing.assert_allclose(255 * found.image, (255 * found.image).round(), atol=1e-4)
        same = logits(found.image[None])[0].argmax() == logits(x[None])[0].argmax()
        assert found.succeeded != same


def test_square_leaves_alone_what_is_wrong_already(playground: Playground) -> None:
    clean, attacked = outcomes(playground, NONE), outcomes(playground, ON_BOTH)
    wrong = [one.after.argmax() != one.truth for one in clean]
    assert any(wrong)
    assert [one.note.startswith("Nothing to attack") for one in attacked] == wrong
    assert not any(two.after.argmax() == two.truth for one, two in zip(wrong, attacked, strict=True) if one)


def test_square_ends_when_its_time_is_up(pipeline: Pipeline, adversarial: GoldenSplit) -> None:
    x = as_batch(adversarial.images[:1], pipeline.input)[0]
    found = square_attack(pipeline.planned.logits, x, label=None, epsilon=0.0, queries=QUERIES, seconds=0.0, seed=1)
    assert (found.queries, found.succeeded) == (2, False)
    np.testing.assert_array_equal(found.image, x)


@pytest.mark.parametrize("name", ["Noise", "Salt and pepper", "Blur"])
def test_a_corruption_grows_with_its_size(playground: Playground, pipeline: Pipeline, name: str) -> None:
    clean = next(iter(playground.samples.values())).clean
    changed = [
        np.abs(TRICKS[name].apply(Victim(image=clean, pipeline=pipeline), size).image.astype(int) - clean).mean()
        for size in (0, 0.1, 0.3)
    ]
    assert changed[0] == 0 < changed[1] < changed[2]


def test_salt_and_pepper_are_white_and_black_in_equal_parts(pipeline: Pipeline) -> None:
    grey = np.full((28, 28, 1), 77, np.uint8)
    found = TRICKS["Salt and pepper"].apply(Victim(image=grey, pipeline=pipeline), 0.5).image
    shares = [float((found == level).mean()) for level in (0, 77, 255)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.06)


def test_an_upload_is_read_as_purify_run_reads_it(playground: Playground, pipeline: Pipeline, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    found = playground.play("Bag, 1", str(tmp_path / "noise.png"), NONE, 0.1)
    expected = pipeline.predict(Image.fromarray(pixels))
    np.testing.assert_allclose(found.after, expected.probabilities[0], atol=1e-5)
    assert found.truth is None
    assert found.undisturbed == int(expected.unpurified[0].argmax())  # type: ignore[index]


def test_what_cannot_be_played_is_said(playground: Playground, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no picture"):
        playground.play(None, None, NONE, 0.1)
    with pytest.raises(InputError, match="no attack 'PGD'"):
        playground.play("Bag, 1", None, "PGD", 0.1)
    file = tmp_path / "picture.png"
    Image.new("L", (28, 28)).save(file)
    with pytest.raises(InputError, match="only the examples have a stored attack"):
        playground.play("Bag, 1", str(file), STORED, 0.1)
    with file.open("ab") as opened:
        opened.truncate(MAX_UPLOAD_BYTES + 1)
    with pytest.raises(InputError, match="larger than 20 MB"):
        playground.play(None, str(file), NONE, 0.1)


def test_words_are_escaped_and_the_verdict_is_that_of_the_answers(playground: Playground) -> None:
    names = [f"<b>{name}</b>" for name in playground.class_names]
    page = outcome_html(playground.play("Bag, 1", None, STORED, 0.1), names)
    assert "<b>" not in page
    assert "after the purifier &lt;b&gt;Bag&lt;/b&gt;. True class: &lt;b&gt;Bag&lt;/b&gt;." in page
    assert "The purifier mended the answer." in page
    assert page.count("<img") == page.count("data:image/png;base64,") == page.count("alt=") == 3
    assert error_html("<i>no</i>").count("<i>") == 0
