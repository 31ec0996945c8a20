import shutil
from pathlib import Path

import msgspec
import pytest

from helpers.bundles import cached
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import MAX_MANIFEST_BYTES, encode_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError
from purify_edge.pipeline.pipeline import Pipeline

MODEL = "models/purifier.fp32.onnx"


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


@pytest.mark.parametrize("file", [MODEL, "golden.npz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_never_loaded(bundle_copy: Path, file: str, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(bundle_copy / file)
    with pytest.raises(BundleError, match=message) as caught:
        Pipeline.load(bundle_copy) if file == MODEL else load_golden(Bundle.open(bundle_copy))
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


@pytest.mark.parametrize(("target", "message"), [("outside.onnx", "leads outside the bundle"), ("", "cannot be read")])
def test_a_link_that_leads_elsewhere_is_not_followed(
    bundle_copy: Path, tmp_path: Path, target: str, message: str
) -> None:
    model = bundle_copy / MODEL
    model.rename(tmp_path / "outside.onnx")
    model.symlink_to(tmp_path / target if target else model)
    with pytest.raises(BundleError, match=message):
        Pipeline.load(bundle_copy)


def test_a_bundle_in_hugging_faces_cache_is_read_and_verified(bundle_path: Path, tmp_path: Path) -> None:
    snapshot = cached(bundle_path, tmp_path)
    Bundle.open(snapshot).verify()
    (tmp_path / "bundle").symlink_to(snapshot)
    with Pipeline.load(tmp_path / "bundle") as pipeline:
        assert pipeline.class_names == Bundle.open(bundle_path).manifest.class_names
    flip((snapshot / MODEL).resolve())
    with pytest.raises(BundleError, match=r"is damaged: expected SHA-256 .*; remove it from .* \(hf cache rm\)"):
        Bundle.open(snapshot).verify()


@pytest.mark.parametrize("place", ["outside", "models--acme--other/blobs/1", "models--acme--pair/refs/main"])
def test_a_link_of_a_cached_bundle_leads_to_its_own_blobs_only(bundle_path: Path, tmp_path: Path, place: str) -> None:
    model, target = cached(bundle_path, tmp_path) / MODEL, tmp_path / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, target)
    model.unlink()
    model.symlink_to(target)
    with pytest.raises(BundleError, match="leads outside the bundle"):
        Pipeline.load(model.parents[1])


def test_blobs_elsewhere_are_no_cache(bundle_path: Path, tmp_path: Path) -> None:
    snapshot = cached(bundle_path, tmp_path)
    repository = snapshot.parents[1].rename(tmp_path / "pair")
    with pytest.raises(BundleError, match="leads outside the bundle"):
        Pipeline.load(repository / "snapshots" / snapshot.name)


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


def test_verify_reads_every_file_but_engines(bundle_path: Path, bundle_copy: Path) -> None:
    Bundle.open(bundle_path).verify()
    bundle = Bundle.open(bundle_copy)
    manifest = bundle.manifest
    assert manifest.report is not None
    assert manifest.sbom is not None
    for engine in manifest.engines:  # they are verified when they are loaded, and built again if damaged
        flip(bundle_copy / engine.file.path)
    bundle.verify()
    parts = [part.file for part in manifest.models]
    for entry in (*parts, manifest.golden.file, manifest.report, manifest.sbom):
        flip(bundle_copy / entry.path)
        with pytest.raises(BundleError, match=f"{entry.path} is damaged"):
            Bundle.open(bundle_copy).verify()
        flip(bundle_copy / entry.path)
