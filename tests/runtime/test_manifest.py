import json
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


@pytest.mark.parametrize(("version", "advice"), [(2, "upgrade purify-edge"), (0, "export it again")])
def test_another_schema_is_refused_with_advice(content: bytes, version: int, advice: str) -> None:
    with pytest.raises(BundleError, match=f"schema version {version}, this purify-edge reads 1; {advice}"):
        parse_manifest(changed(content, schema_version=version), source="m")


def test_a_newer_schema_is_refused_even_where_nothing_else_is_known(content: bytes) -> None:
    with pytest.raises(BundleError, match="schema version 7"):
        parse_manifest(b'{"schema_version": 7, "everything": "else"}', source="m")


@pytest.mark.parametrize("key", ["models", "golden", "input", "class_names", "name"])
def test_a_missing_part_is_named(content: bytes, key: str) -> None:
    manifest = json.loads(content)
    del manifest[key]
    with pytest.raises(BundleError, match=f"missing required field `{key}`"):
        parse_manifest(json.dumps(manifest).encode(), source="m")


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "models/../../x", "..", "", "models\\..\\..\\x", "C:/x", "models/\0x"]
)
def test_a_path_outside_the_bundle_is_refused(content: bytes, path: str) -> None:
    manifest = json.loads(content)
    manifest["golden"]["file"]["path"] = path
    with pytest.raises(BundleError, match="leads outside the bundle"):
        parse_manifest(json.dumps(manifest).encode(), source="m")


def test_a_model_listed_twice_is_refused(content: bytes) -> None:
    models = json.loads(content)["models"]
    with pytest.raises(BundleError, match="listed twice"):
        parse_manifest(changed(content, models=[*models, models[0]]), source="m")


def test_a_precision_without_all_three_models_is_refused(content: bytes) -> None:
    models = json.loads(content)["models"]
    with pytest.raises(BundleError, match="no fp16 model for defended"):
        parse_manifest(changed(content, models=models[:-1]), source="m")


@pytest.mark.parametrize("splits", [{}, {"clean": 0}, {"[/]": 256}, {"": 256}])
def test_a_golden_set_of_nothing_or_of_odd_names_is_refused(content: bytes, splits: dict[str, int]) -> None:
    golden = json.loads(content)["golden"]
    with pytest.raises(BundleError, match="is not a purify-edge manifest"):
        parse_manifest(changed(content, golden=golden | {"splits": splits}), source="m")


SUSPICION = {"threshold": 1.0, "false_positive_rate": 0.01, "n": 100, "images": "some"}


@pytest.mark.parametrize(
    "wrong", [{"threshold": -1}, {"threshold": "1"}, {"false_positive_rate": 0}, {"n": 0}, {"score": "another"}]
)
def test_a_threshold_that_cannot_be_one_is_refused(content: bytes, wrong: dict[str, Any]) -> None:
    assert parse_manifest(changed(content, suspicion=SUSPICION), source="m").suspicion is not None
    with pytest.raises(BundleError, match=r"is not a purify-edge manifest.*suspicion"):
        parse_manifest(changed(content, suspicion=SUSPICION | wrong), source="m")


def test_a_manifest_from_before_the_score_has_none(content: bytes) -> None:
    old = json.loads(content)
    del old["suspicion"]
    assert parse_manifest(json.dumps(old).encode(), source="m").suspicion is None
