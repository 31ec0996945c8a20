"""Pipelines as tuned: right numbers whatever was chosen, and a cache that never hurts."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from purify_edge import BundleError, Pipeline
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import ROLES
from purify_edge.bundle.reader import Bundle
from purify_edge.engines import ON_CPU, is_here
from purify_edge.engines.tune import BATCHES, Choice, Setting, candidates
from purify_edge.engines.tune_cache import remember
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline import tuned
from purify_edge.pipeline.pipeline import softmax
from purify_edge.pipeline.tuned import PART, Pair, open_tuned

HERE = [name for name in ON_CPU if is_here(name)]


@pytest.fixture(scope="module")
def split(bundle_path: Path) -> GoldenSplit:
    return load_golden(Bundle.open(bundle_path))["adversarial"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> Path:
    """Tuning that is quick, and nothing remembered yet; the folder of the cache."""
    monkeypatch.setattr(tuned, "BUDGET_S", 0.3)
    return own_folders / "XDG_CACHE_HOME" / "purify-edge" / "tuned"


def chained(setting: Setting) -> Setting:
    return msgspec.structs.replace(setting, graph="chained")


def choice(setting: Setting) -> Choice:
    """A setting for the logits, and with its graphs chained for both."""
    return Choice(setting, chained(setting))


def remembered(settings: dict[str, object]) -> bytes:
    """A cache that names settings for every size of batch."""
    entry = {"logits": settings | {"graph": "composed"}, "both": settings | {"graph": "chained"}}
    return json.dumps({str(batch): entry for batch in BATCHES}).encode()


@pytest.mark.parametrize("setting", [*candidates(HERE, 2), *map(chained, candidates(HERE, 2))], ids=str)
def test_every_setting_gives_the_references_numbers(setting: Setting, bundle_path: Path, split: GoldenSplit) -> None:
    bundle = Bundle.open(bundle_path)
    x = as_batch(split.images, bundle.manifest.input)
    pair = Pair(bundle, "fp32")
    assert pair.adopt(dict.fromkeys(BATCHES, choice(setting)))
    for n in (1, PART, PART + 1, 64):  # one call, and parts of which the last is smaller
        purified, logits = pair.at("both", n)(x[:n])
        np.testing.assert_allclose(purified, split.purified[:n], atol=1e-5)
        np.testing.assert_allclose(logits, split.defended[:n], atol=1e-4)
        np.testing.assert_allclose(pair.at("logits", n)(x[:n]), split.defended[:n], atol=1e-4)
        np.testing.assert_allclose(pair.at("purifier", n)(x[:n]), split.purified[:n], atol=1e-5)
        np.testing.assert_allclose(pair.at("classifier", n)(x[:n]), split.classifier[:n], atol=1e-4)
    pair.close()


def test_the_size_of_a_batch_decides_what_runs_it(bundle_path: Path) -> None:
    one, many = Setting("onnxruntime", 1), Setting("onnxruntime", 1, workers=2, graph="chained")
    pair = Pair(Bundle.open(bundle_path), "fp32")
    pair.adopt({1: choice(one), 8: choice(one), 64: Choice(many, many)})
    assert pair.at("logits", 1) == pair.at("logits", 8) == pair.engine("defended", one).run
    assert pair.at("logits", 50) != pair.at("logits", 8)
    pair.close()


def test_purified_images_have_a_setting_of_their_own(bundle_path: Path, split: GoldenSplit) -> None:
    alone, chain = Setting("onnxruntime", 1), Setting("onnxruntime", 0, graph="chained")
    bundle = Bundle.open(bundle_path)
    pair = Pair(bundle, "fp32")
    assert pair.adopt(dict.fromkeys(BATCHES, Choice(alone, chain)))
    assert pair.at("logits", 1) == pair.engine("defended", alone).run
    assert pair.at("purifier", 1) == pair.engine("purifier", chain).run
    _, logits = pair.at("both", 1)(as_batch(split.images[:1], bundle.manifest.input))
    np.testing.assert_allclose(logits, split.defended[:1], atol=1e-4)
    used = {(role, host.threads) for role, _, host in pair._engines}
    assert used == {("defended", 1), ("purifier", None), ("classifier", None)}
    pair.adopt(dict.fromkeys(BATCHES, choice(alone)))  # closes what nothing needs any more
    assert {(role, host.threads) for role, _, host in pair._engines} <= {(role, 1) for role in ROLES}
    pair.close()


def test_auto_tunes_once_and_then_remembers(
    bundle_path: Path, split: GoldenSplit, soon: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    with Pipeline.load(bundle_path) as pipeline:
        first = pipeline.probabilities(split.images)
    assert "tuned in " in caplog.text
    (file,) = soon.iterdir()
    assert str(file) in caplog.text
    assert set(json.loads(file.read_text())) == {"1", "8", "64"}
    monkeypatch.setattr(tuned, "tune", None)  # to be called no more
    with Pipeline.load(bundle_path) as pipeline:
        np.testing.assert_allclose(pipeline.probabilities(split.images), first, atol=1e-5)
    np.testing.assert_allclose(first, softmax(split.defended), atol=1e-4)
    assert "as tuned for this machine: batch 1: " in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"1": {"engine": "onnxruntime", "threads": 1}}',
        json.dumps({str(batch): {"engine": "onnxruntime", "threads": 1} for batch in BATCHES}).encode(),  # format 1
        remembered({"engine": "abacus", "threads": 1}),
        remembered({"engine": "onnxruntime", "threads": 10_000}),
        remembered({"engine": "onnxruntime", "threads": 1}).replace(b"chained", b"composed"),
    ],
)
def test_a_cache_that_is_damaged_or_of_another_machine_is_made_again(
    content: bytes, bundle_path: Path, split: GoldenSplit, soon: Path
) -> None:
    Pipeline.load(bundle_path).close()
    (file,) = soon.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    with Pipeline.load(bundle_path) as pipeline:
        assert (pipeline.labels(split.images[:9]) == split.defended[:9].argmax(axis=1)).all()
    assert set(json.loads(file.read_bytes())) == set(json.loads(good))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_does_not_matter(bundle_path: Path, soon: Path) -> None:
    soon.parent.mkdir(parents=True)
    soon.parent.chmod(0o500)
    Pipeline.load(bundle_path).close()


def test_a_cache_that_cannot_be_written_does_not_matter(
    bundle_path: Path, soon: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    soon.parent.mkdir(parents=True)
    soon.write_text("a file, where a folder should be")
    Pipeline.load(bundle_path).close()
    assert "cannot remember that" in caplog.text


def test_another_bundle_other_versions_and_other_cores_are_tuned_anew(
    bundle_path: Path, bundle_copy: Path, soon: Path, monkeypatch: pytest.MonkeyPatch, edit_manifest: Any
) -> None:
    from purify_edge.engines import tune_cache

    Pipeline.load(bundle_path).close()
    Pipeline.load(bundle_copy).close()  # the same models elsewhere are the same
    assert len(list(soon.iterdir())) == 1
    Pipeline.load(bundle_path, precision="fp16").close()
    assert len(list(soon.iterdir())) == 2
    monkeypatch.setattr(tune_cache, "_version", lambda package: "0")
    Pipeline.load(bundle_path).close()
    assert len(list(soon.iterdir())) == 3
    monkeypatch.setattr(tune_cache, "cores", lambda: 77)
    Pipeline.load(bundle_path).close()
    assert len(list(soon.iterdir())) == 4
    monkeypatch.setattr(tune_cache, "FORMAT", tune_cache.FORMAT + 1)
    Pipeline.load(bundle_path).close()
    assert len(list(soon.iterdir())) == 5


def test_an_engine_that_is_remembered_and_gone_is_done_without(
    bundle_path: Path, soon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pipeline.load(bundle_path).close()
    (file,) = soon.iterdir()
    file.write_bytes(remembered({"engine": "openvino", "threads": 1, "spinning": "never", "workers": 1}))
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it now raises ImportError
    with Pipeline.load(bundle_path) as pipeline:
        assert pipeline.predict(np.zeros((1, 28, 28, 1), np.uint8)).labels.shape == (1,)
    assert "openvino" not in file.read_text()


def test_what_is_tuned_for_one_engine_loads_no_other(bundle_path: Path) -> None:
    pytest.importorskip("openvino")
    setting = Setting("openvino", 1)
    told = remember(Bundle.open(bundle_path).manifest, "fp32", dict.fromkeys(BATCHES, choice(setting)))
    program = """
import sys
import numpy as np
from purify_edge import Pipeline
with Pipeline.load(sys.argv[1]) as pipeline:
    pipeline.predict(np.zeros((9, 28, 28, 1), np.uint8))
    print(pipeline.engine, *({"onnxruntime", "openvino"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", program, str(bundle_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["openvino", "openvino"], told


def test_a_damaged_model_is_told_at_once(bundle_copy: Path) -> None:
    Pipeline.load(bundle_copy).close()
    model = bundle_copy / "models" / "classifier.fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError, match="damaged"):
        Pipeline.load(bundle_copy)


def test_threads_share_a_tuned_pair(bundle_path: Path, split: GoldenSplit) -> None:
    with ThreadPoolExecutor(4) as pool, Pipeline.load(bundle_path) as pipeline:
        sizes = [1, 9, 64, 2, 30, 5] * 5
        for size, labels in zip(sizes, pool.map(lambda n: pipeline.labels(split.images[:n]), sizes), strict=True):
            assert (labels == split.defended[:size].argmax(axis=1)).all()


def test_engines_of_two_pairs_are_chained_by_way_of_numpy(bundle_path: Path, split: GoldenSplit) -> None:
    bundle = Bundle.open(bundle_path)
    (purifier, other), (also, classifier) = open_tuned(bundle, "fp32"), open_tuned(bundle, "fp32")
    with purifier, also:
        assert other.pair is purifier.pair
        x = as_batch(split.images[:3], bundle.manifest.input)
        np.testing.assert_allclose(purifier.then(classifier).last(x), split.defended[:3], atol=1e-4)
        assert (purifier.name in ON_CPU, purifier.device) == (True, "cpu")
