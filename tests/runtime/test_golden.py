import dataclasses
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


def test_a_golden_set_that_unpacks_to_more_than_announced_is_refused(bundle_copy: Path, bundle_path: Path) -> None:
    splits = load_golden(Bundle.open(bundle_path))
    giant = dataclasses.replace(splits["clean"], defended=np.zeros((1_000_000, 10), np.float32))
    content = encode_golden(splits | {"clean": giant})
    with pytest.raises(BundleError, match=r"unpacks to [0-9]+ bytes, the manifest announces"):
        load_golden(with_golden(bundle_copy, content))
