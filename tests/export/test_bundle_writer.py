import hashlib
from pathlib import Path

import msgspec
import pytest

from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.writer import BundleWriter
from purify_edge.errors import InputError


@pytest.fixture
def manifest(bundle_path: Path) -> Manifest:
    return Bundle.open(bundle_path).manifest


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_takes_its_name_when_it_is_finished(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "deep" / "bundle"
    with BundleWriter(out, force=False) as writer:
        entry = writer.add("models/a.onnx", b"abc")
        assert not out.exists()
        bundle = writer.finish(manifest)
    assert (entry.path, entry.size_bytes) == ("models/a.onnx", 3)
    assert entry.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert bundle.read(entry) == b"abc"
    assert Bundle.open(out).manifest == manifest
    assert names(out.parent) == ["bundle"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BundleWriter(tmp_path / "bundle", force=False) as writer:
        writer.add("models/a.onnx", b"abc")
        _ = 1 / 0
    assert names(tmp_path) == []


def test_a_bundle_is_replaced_by_force_only(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "bundle"
    with BundleWriter(out, force=False) as writer:
        writer.finish(manifest)
    with pytest.raises(InputError, match=r"bundle exists; --force replaces it, --out names another folder"):
        BundleWriter(out, force=False)
    renamed = msgspec.structs.replace(manifest, name="second")
    with BundleWriter(out, force=True) as writer:
        assert Bundle.open(out).manifest.name == manifest.name  # the old one stands until the new one is whole
        writer.finish(renamed)
    assert Bundle.open(out).manifest.name == "second"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_replacement_that_fails_half_way_puts_the_old_bundle_back(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    out = tmp_path / "bundle"
    with BundleWriter(out, force=False) as writer:
        writer.finish(manifest)
    rename, calls = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), BundleWriter(out, force=True) as writer:
        writer.finish(msgspec.structs.replace(manifest, name="second"))
    assert Bundle.open(out).manifest == manifest
    assert names(tmp_path) == ["bundle"]


def test_what_took_the_name_meanwhile_is_left_alone(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "bundle"
    with BundleWriter(out, force=False) as writer:
        out.mkdir()
        (out / "photo.txt").write_text("dear")
        with pytest.raises(InputError, match="bundle exists"):
            writer.finish(manifest)
    assert names(tmp_path) == ["bundle"]
    assert names(out) == ["photo.txt"]


def test_force_never_replaces_what_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    for name in ("photos", "file", "link"):
        with pytest.raises(InputError, match="exists and is not a bundle; remove it yourself"):
            BundleWriter(tmp_path / name, force=True)
    assert names(tmp_path) == before
    assert (tmp_path / "photos" / "holiday.txt").read_text() == "dear"


def test_an_empty_folder_is_taken_by_force(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "bundle").mkdir()
    with BundleWriter(tmp_path / "bundle", force=True) as writer:
        writer.finish(manifest)
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("parent", ["file", "/sys/kernel"])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*; --out names another folder"):
        BundleWriter(tmp_path / parent / "bundle", force=False)


def test_a_failed_bundle_is_kept_apart_and_takes_the_place_of_an_older_one_only(
    tmp_path: Path, manifest: Manifest
) -> None:
    out, failed = tmp_path / "bundle", msgspec.structs.replace(manifest, failed=("agreement",))
    with BundleWriter(out, force=False) as writer:
        writer.finish(manifest)
    for name in ("first", "second"):
        with BundleWriter(out, force=True) as writer:
            kept = writer.finish(msgspec.structs.replace(failed, name=name))
    assert names(tmp_path) == ["bundle", "bundle.failed"]
    assert Bundle.open(out).manifest == manifest  # --force replaces it by a bundle that is good
    assert kept.path == tmp_path / "bundle.failed"
    assert Bundle.open(kept.path, allow_failed=True).manifest.name == "second"
    with BundleWriter(kept.path, force=True) as writer:  # one that was made to fail may be replaced by its own name
        writer.finish(manifest)
    with BundleWriter(out, force=True) as writer, pytest.raises(InputError, match="is not a failed bundle"):
        writer.finish(failed)
    assert names(tmp_path) == ["bundle", "bundle.failed"]
