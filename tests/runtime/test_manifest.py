import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from purify_edge.bundle.manifest import encode_manifest, parse_manifest
from purify_edge.errors import BundleError


@pytest.fixture
def content(bundle_path: Path) -> bytes:
    return (bundle_path / "manifest.json").read_bytes()


def test_what_is_encoded_is_what_is_parsed(content: bytes) -> None:
    manifest = parse_manifest(content, source="m")
    assert parse_manifest(encode_manifest(manifest), source="m") == manifest
    assert {(model.role, model.precision) for model in manifest.models} == {
        (role, precision) for role in ("purifier", "classifier", "defended") for precision in ("fp32", "fp16")
    }
    assert manifest.golden.splits == {"clean": 256, "adversarial": 256, "noise": 256}
    assert "PGD-20, Linf 0.1" in manifest.golden.attack
    assert len(manifest.class_names) == 10


@pytest.mark.parametrize(
    "text", [b"", b"not json", b"[]", b"null", b"{}", b"\xff\xfe", b'{"schema_version": "1"}', b"[" * 5000]
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(BundleError, match=r"m is not a purify-edge manifest.*(copy|export)"):
        parse_manifest(text, source="m")


def changed(content: bytes, **values: Any) -> bytes:
    return json.dumps(json.loads(content) | values).encode()


def without(key: str, manifest: dict[str, Any]) -> None:
    del manifest[key]


def with_path(path: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["golden"]["file"].update(path=path)


def with_splits(splits: dict[str, int]) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["golden"].update(splits=splits)


def with_way(**how: object) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["input"].update(preprocessing=how)


KEYS = ("models", "golden", "input", "class_names", "name")
OUTSIDE = ("../x", "/etc/passwd", "models/../../x", "..", "", "models\\..\\..\\x", "C:/x", "models/\0x")
ODD_SPLITS: tuple[dict[str, int], ...] = ({}, {"clean": 0}, {"[/]": 256}, {"": 256})
WRONG: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m.update(schema_version=2), "schema version 2, this purify-edge reads 1; upgrade purify-edge"),
    (lambda m: m.update(schema_version=0), "schema version 0, this purify-edge reads 1; export it again"),
    (lambda m: (m.clear(), m.update(schema_version=7, everything="else")), "schema version 7"),
    *((partial(without, key), f"missing required field `{key}`") for key in KEYS),
    *((with_path(path), "leads outside the bundle") for path in OUTSIDE),
    (lambda m: m["models"].append(m["models"][0]), "listed twice"),
    (lambda m: m["models"].pop(), "no fp16 model for defended"),
    (with_way(interpolation="bicubic", antialias=False), "bicubic without antialiasing is not known"),
    (with_way(resize="squash"), "Invalid enum value 'squash'"),
    (with_way(scaled=[10, 10**9]), "Expected `int` <= 1048576"),
    *((with_splits(splits), "is not a purify-edge manifest") for splits in ODD_SPLITS),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_manifest_that_cannot_be_used_is_refused_with_the_reason(
    content: bytes, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    manifest = json.loads(content)
    change(manifest)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(manifest).encode(), source="m")


SUSPICION = {"threshold": 1.0, "false_positive_rate": 0.01, "n": 100, "images": "some"}


@pytest.mark.parametrize(
    "wrong", [{"threshold": -1}, {"threshold": "1"}, {"false_positive_rate": 0}, {"n": 0}, {"score": "another"}]
)
def test_a_threshold_that_cannot_be_one_is_refused(content: bytes, wrong: dict[str, Any]) -> None:
    assert parse_manifest(changed(content, suspicion=SUSPICION), source="m").suspicion is not None
    with pytest.raises(BundleError, match=r"is not a purify-edge manifest.*suspicion"):
        parse_manifest(changed(content, suspicion=SUSPICION | wrong), source="m")
