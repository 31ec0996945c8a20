import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bundles import replace
from purify_edge.bundle import golden
from purify_edge.bundle.golden import GoldenSplit, encode_golden, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError


def test_the_reference_is_fooled_alone_and_not_behind_the_purifier(bundle_path: Path) -> None:
    splits = load_golden(Bundle.open(bundle_path))

    def accuracy(split: str, model: str) -> float:
        return float((getattr(splits[split], model).argmax(axis=1) == splits[split].labels).mean())

    assert accuracy("clean", "classifier") > 0.88
    assert accuracy("clean", "defended") > 0.86
    assert accuracy("adversarial", "classifier") < 0.08
    assert accuracy("adversarial", "defended") > 0.75


def large_splits(side: int = 224, count: int = 20) -> dict[str, GoldenSplit]:
    """Images as hard to compress as any, some of them changed by up to 8 levels, and what networks made of them."""
    rng = np.random.default_rng(0)
    clean = rng.integers(8, 248, (count, side, side, 3), dtype=np.uint8)
    changes = {"clean": 0, "adversarial": rng.choice([-8, -4, 0, 4, 8], clean.shape), "noise": rng.integers(-8, 9)}
    purified = rng.random((count, 3, side, side), dtype=np.float32)
    logits = rng.random((count, 10), dtype=np.float32)
    labels = np.arange(count) % 10
    return {
        name: GoldenSplit((clean + change).astype(np.uint8), labels, purified, logits, logits)
        for name, change in changes.items()
    }


def test_large_images_come_back_with_the_first_purified_ones(bundle_copy: Path) -> None:
    splits = large_splits()
    content = encode_golden(splits)
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["input"] |= {"channels": 3, "height": 224, "width": 224}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    replace(bundle_copy, "golden.npz", content, splits=dict.fromkeys(splits, 20))
    found = load_golden(Bundle.open(bundle_copy))
    for name, split in splits.items():
        np.testing.assert_array_equal(found[name].images, split.images)
        np.testing.assert_array_equal(found[name].purified, split.purified[: len(found[name].purified)])
        assert golden.LEAST_PURIFIED <= len(found[name].purified) < 20
    of_100 = 5 * (len(content) - 3 * found["clean"].purified.nbytes) + 3 * found["clean"].purified.nbytes
    assert of_100 < 40e6


def with_golden(bundle: Path, content: bytes) -> Bundle:
    replace(bundle, "golden.npz", content)
    return Bundle.open(bundle)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x93NUMPY"])
def test_a_file_that_is_no_golden_set_is_refused(bundle_copy: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="does not hold the golden set"):
        load_golden(with_golden(bundle_copy, content))


def test_a_golden_set_of_other_shapes_is_refused(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, k = 256, 10
    wrong = GoldenSplit(
        images=np.zeros((n, 28, 28, 3), np.uint8),
        labels=np.zeros(n, np.int64),
        purified=np.zeros((n, 1, 28, 28), np.float32),
        classifier=np.zeros((n, k), np.float32),
        defended=np.zeros((n, k), np.float32),
    )
    content = encode_golden(dict.fromkeys(("clean", "adversarial", "noise"), wrong))
    monkeypatch.setattr(golden, "NPY_HEADER_BYTES", 10**7)  # not refused for its size
    with pytest.raises(BundleError, match=r"split 'clean' holds .*28, 28, 3"):
        load_golden(with_golden(bundle_copy, content))


@pytest.mark.parametrize(("name", "dtype"), [("images", np.int16), ("labels", np.float32), ("defended", "<U9")])
def test_a_golden_set_of_other_types_is_refused(
    bundle_copy: Path, bundle_path: Path, name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load_golden(Bundle.open(bundle_path))
    wrong = dataclasses.replace(splits["clean"], **{name: getattr(splits["clean"], name).astype(dtype)})
    content = encode_golden(splits | {"clean": wrong})
    monkeypatch.setattr(golden, "NPY_HEADER_BYTES", 10**7)  # not refused for its size
    with pytest.raises(BundleError, match=f"split 'clean' holds .*{np.dtype(dtype).name}.*, expected"):
        load_golden(with_golden(bundle_copy, content))


@pytest.mark.parametrize("name", golden.NAMES)
def test_a_golden_set_with_a_number_for_an_array_is_refused(bundle_copy: Path, name: str) -> None:
    with np.load(bundle_copy / "golden.npz") as arrays:
        content = dict(arrays)
    content[f"clean_{name}"] = content[f"clean_{name}"].ravel()[0]
    np.savez_compressed(bundle_copy / "golden.npz", **content)
    with pytest.raises(BundleError, match=rf"split 'clean' holds .*'{name}': \('\w+', \(\)\)"):
        load_golden(with_golden(bundle_copy, (bundle_copy / "golden.npz").read_bytes()))


def test_a_golden_set_that_unpacks_to_more_than_announced_is_refused(bundle_copy: Path, bundle_path: Path) -> None:
    splits = load_golden(Bundle.open(bundle_path))
    giant = dataclasses.replace(splits["clean"], defended=np.zeros((1_000_000, 10), np.float32))
    content = encode_golden(splits | {"clean": giant})
    with pytest.raises(BundleError, match=r"unpacks to [0-9]+ bytes, the manifest announces"):
        load_golden(with_golden(bundle_copy, content))
