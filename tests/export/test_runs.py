"""The export of a run folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError
from purify_export.options import ExportOptions
from purify_export.runs import export_run
from purify_toolkit.runs.folder import RunFolder

OPTIONS = ExportOptions(fp16=False, targets=["onnx"], rounds=0)


def test_a_run_is_exported_with_what_it_knows_at_another_size(run_path: Path, tmp_path: Path) -> None:
    run = RunFolder(run_path)
    small = Path(shutil.copytree(run_path, tmp_path / "run"))
    recipe = small / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("epsilon = 0.1\n", "epsilon = 0.05\n"))
    bundle, report = export_run(RunFolder(small), tmp_path / "bundle", OPTIONS, size=(13, 15))
    assert report.passed
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.name, list(manifest.class_names)) == (run.info["recipe"], run.info["class_names"])
    assert manifest.provenance == {"run": run.info, "metrics": None}
    assert (manifest.input.height, manifest.input.width) == (13, 15)
    assert manifest.golden.resized.startswith("from 12x12 by Pillow's bilinear")
    assert manifest.golden.attack.startswith("PGD-4, Linf 0.05, step 0.025, 1 random start")
    assert manifest.suspicion is not None
    assert (manifest.suspicion.n, manifest.suspicion.images) == (144, "test images that the golden set leaves")
    golden = load_golden(bundle)["clean"]
    assert golden.images.shape == (256, 13, 15, 1)
    assert np.array_equal(golden.labels, run.load_samples().labels[:256].numpy())


def test_the_shipped_bundle_is_an_export_of_the_shipped_pair(shipped: RunFolder) -> None:
    """`python -m lab.ship_bundles` made it: of these weights, and of the first 256 of these images."""
    bundle = Bundle.open("fashion-mnist")
    manifest = bundle.manifest
    assert manifest.provenance["run"] == shipped.info
    assert manifest.provenance["metrics"]["rows"][0]["n"] == 10_000
    golden, samples = load_golden(bundle)["clean"], shipped.load_samples()
    assert np.array_equal(golden.images[..., 0], samples.images[:256, 0].numpy())
    assert manifest.suspicion is not None
    assert manifest.suspicion.n == 744


def test_a_bundle_that_is_there_is_refused_before_the_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="bundle exists; --force replaces it"):
        export_run(RunFolder(tmp_path / "absent"), tmp_path / "bundle", OPTIONS)
