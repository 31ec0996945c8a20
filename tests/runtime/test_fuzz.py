"""Whatever a bundle's files hold, nothing but a PurifyError comes out of their readers."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bundles import keep_few, replace
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import Manifest, encode_manifest, parse_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError, PurifyError

pytestmark = pytest.mark.once

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just("../../etc/passwd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def manifest(bundle_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle_path / "manifest.json").read_text())
    content["provenance"] = {}
    return content


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each key of each object and each index of each list in a JSON value, with what holds it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def parsed(content: bytes) -> Manifest | None:
    """The manifest, or None where it was refused as it should be."""
    try:
        return parse_manifest(content, source="m")
    except BundleError as error:
        assert "m " in str(error)
        return None


@given(st.binary(max_size=300))
def test_bytes_that_are_no_manifest_are_refused(content: bytes) -> None:
    assert parsed(content) is None


@settings(max_examples=300)
@given(st.data())
def test_a_manifest_with_anything_anywhere_is_read_or_refused(manifest: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(json.dumps(manifest))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(changed)))
        if isinstance(holder, dict) and data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = data.draw(VALUES)
        if not places(changed):
            break
    found = parsed(json.dumps(changed).encode())
    if found is not None:  # what was read can be written, and read again
        assert parse_manifest(encode_manifest(found), source="m") == found


@settings(max_examples=100)
@given(st.data())
def test_a_manifest_with_damaged_bytes_is_read_or_refused(manifest: dict[str, Any], data: st.DataObject) -> None:
    content = bytearray(json.dumps(manifest).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    parsed(bytes(content[: data.draw(st.integers(0, len(content)))]))


@pytest.fixture(scope="module")
def small(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A bundle with a golden set of two images a split, and that golden set."""
    copy = Path(shutil.copytree(bundle_path, tmp_path_factory.mktemp("small") / "bundle"))
    keep_few(copy, 2)
    return copy, (copy / "golden.npz").read_bytes()


def loaded(path: Path, content: bytes) -> dict[str, GoldenSplit] | None:
    """The golden set that a file holds; its hash is made to fit, for fuzz does not get past SHA-256."""
    replace(path, "golden.npz", content)
    try:
        return load_golden(Bundle.open(path))
    except PurifyError:
        return None


def test_the_small_golden_set_is_good(small: tuple[Path, bytes]) -> None:
    found = loaded(*small)
    assert found is not None
    assert all(len(split) == 2 for split in found.values())


@given(st.binary(max_size=200))
def test_bytes_that_are_no_golden_set_are_refused(small: tuple[Path, bytes], content: bytes) -> None:
    assert loaded(small[0], content) is None


@settings(max_examples=150)
@given(st.data())
def test_a_golden_set_with_damaged_bytes_is_read_or_refused(small: tuple[Path, bytes], data: st.DataObject) -> None:
    content = bytearray(small[1])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    loaded(small[0], bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))


HEADERS = st.sampled_from(
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        b"{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': True, 'shape': (2,), }",
        b"{'descr': '<f4', 'shape': (-1,)}",
        b"__import__('os').abort()",
        b"(" * 200,
        b"",
    ]
) | st.binary(max_size=120)


@given(st.sampled_from(["clean_images", "noise_labels", "adversarial_defended"]), HEADERS, st.binary(max_size=64))
def test_any_header_is_read_or_refused(small: tuple[Path, bytes], member: str, header: bytes, body: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(small[1])) as good, zipfile.ZipFile(buffer, "w") as bad:
        for name in good.namelist():
            npy = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header + body
            bad.writestr(name, npy if name == f"{member}.npy" else good.read(name))
    loaded(small[0], buffer.getvalue())
