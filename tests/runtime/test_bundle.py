from pathlib import Path

import msgspec
import pytest

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import encode_manifest
from purify_edge.bundle.reader import MAX_MANIFEST_BYTES, Bundle
from purify_edge.errors import BundleError
from purify_edge.pipeline.pipeline import Pipeline

FILES = ["models/purifier.fp32.onnx", "models/classifier.fp32.onnx"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "missing": (Path.unlink, "cannot be read"),
    "truncated": (truncate, "is damaged: expected [0-9]+ bytes"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged: expected [0-9]+ bytes, found 0"),
    "bit-flipped": (flip, "is damaged: expected SHA-256"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_never_loaded(bundle_copy: Path, file: str, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(bundle_copy / file)
    with pytest.raises(BundleError, match=message) as caught:
        Pipeline.load(bundle_copy)
    assert file in str(caught.value)
    assert "copy the bundle again" in str(caught.value)


def test_a_bundle_that_failed_its_export_is_refused_unless_allowed(bundle_copy: Path) -> None:
    manifest = Bundle.open(bundle_copy).manifest
    failed = msgspec.structs.replace(manifest, failed=("agreement, this", "accuracy drop, that"))
    (bundle_copy / "manifest.json").write_bytes(encode_manifest(failed))
    for use in (Bundle.open, Pipeline.load):
        with pytest.raises(
            BundleError, match=r"marked so: agreement, this and 1 more, see .*report.json.*--allow-failed"
        ):
            use(bundle_copy)
    assert Bundle.open(bundle_copy, allow_failed=True).manifest == failed
    with Pipeline.load(bundle_copy, allow_failed=True) as pipeline:
        assert pipeline.class_names == manifest.class_names


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_golden_set_is_never_loaded(bundle_copy: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(bundle_copy / "golden.npz")
    with pytest.raises(BundleError, match=message):
        load_golden(Bundle.open(bundle_copy))


def test_every_file_of_a_bundle_is_in_its_manifest_and_verifies(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    manifest = bundle.manifest
    assert manifest.report is not None
    entries = [manifest.golden.file, manifest.report, *manifest.pages]
    entries += [part.file for part in (*manifest.models, *manifest.engines)]
    found = {str(path.relative_to(bundle_path)) for path in bundle_path.rglob("*") if path.is_file()}
    assert found == {entry.path for entry in entries} | {"manifest.json"}
    for entry in entries:
        assert len(bundle.read(entry)) == entry.size_bytes


def test_a_link_that_leads_outside_is_not_followed(bundle_copy: Path, tmp_path: Path) -> None:
    model = bundle_copy / FILES[0]
    outside = tmp_path / "outside.onnx"
    model.rename(outside)
    model.symlink_to(outside)
    with pytest.raises(BundleError, match="leads outside the bundle"):
        Pipeline.load(bundle_copy)


@pytest.mark.parametrize("kind", ["absent", "file", "empty folder"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("x")
    elif kind == "empty folder":
        path.mkdir()
    with pytest.raises(BundleError, match=r"is not a bundle: manifest\.json cannot be read"):
        Bundle.open(path)


def test_a_giant_manifest_is_refused(bundle_copy: Path) -> None:
    with (bundle_copy / "manifest.json").open("ab") as file:
        file.write(b" " * MAX_MANIFEST_BYTES)
    with pytest.raises(BundleError, match="larger than"):
        Bundle.open(bundle_copy)


def test_a_precision_that_is_not_there_is_refused_by_name(bundle_path: Path) -> None:
    with pytest.raises(BundleError, match="has no models in int8, only in fp32, fp16"):
        Pipeline.load(bundle_path, precision="int8")


def test_a_loop_of_links_is_refused(bundle_copy: Path) -> None:
    model = bundle_copy / FILES[0]
    model.unlink()
    model.symlink_to(model)
    with pytest.raises(BundleError, match="cannot be read"):
        Pipeline.load(bundle_copy)


def test_verify_reads_every_file_but_engines(bundle_path: Path, bundle_copy: Path) -> None:
    Bundle.open(bundle_path).verify()
    bundle = Bundle.open(bundle_copy)
    manifest = bundle.manifest
    assert manifest.report is not None
    for engine in manifest.engines:  # they are verified when they are loaded, and built again if damaged
        flip(bundle_copy / engine.file.path)
    bundle.verify()
    parts = [part.file for part in manifest.models]
    for entry in (*parts, manifest.golden.file, manifest.report):
        flip(bundle_copy / entry.path)
        with pytest.raises(BundleError, match=f"{entry.path} is damaged"):
            Bundle.open(bundle_copy).verify()
        flip(bundle_copy / entry.path)
