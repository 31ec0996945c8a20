"""The bundles that ship are made anew by one command."""

from pathlib import Path

import pytest

from helpers.trained import small_run
from lab.ship_bundles import main
from purify_edge.bundle.reader import Bundle
from purify_edge.files import write_json


@pytest.mark.slow
def test_a_pair_gives_the_same_bundle_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = small_run(tmp_path / "small", count=40)
    write_json(run.path / "run.json", run.info | {"created": "2026-11-24T12:13:13+00:00"})
    for folder in ("first", "second"):
        main(["small"], tmp_path / folder)
    manifest = Bundle.open(tmp_path / "first" / "small").manifest
    assert manifest.created == "2026-11-24T12:13:13+00:00"
    assert manifest.engines == ()
    files = {path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()}
    assert {path.name for path in files} >= {
        "manifest.json",
        "golden.npz",
        "report.html",
        "sbom.cdx.json",
        "defended.fp16.onnx",
    }
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
