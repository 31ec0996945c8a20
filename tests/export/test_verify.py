import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.mutations import edit, mutate
from helpers.refusals import refused
from purify_edge.bundle.reader import Bundle
from purify_export.networks import Networks
from purify_export.verify.cli import main
from purify_export.verify.options import Amounts
from purify_export.verify.report import VerifyReport
from purify_export.verify.verify import live_splits, verify
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import FOLDER

SMALL = Amounts(limit=40, attack_limit=24, square_limit=6, queries=60)


@pytest.fixture(scope="module")
def report(bundle_path: Path, shipped: RunFolder) -> VerifyReport:
    return verify(Bundle.open(bundle_path), shipped, SMALL, engine="onnxruntime", precisions=("fp32",))


def row(report: VerifyReport, role: str, threat: str) -> Any:
    (found,) = (row for row in report.rows if (row.role, row.split) == (role, threat))
    return found


def test_every_model_is_compared_with_the_live_networks_on_every_threat(report: VerifyReport) -> None:
    assert report.passed
    assert {(row.role, row.split): row.n for row in report.rows} == {
        (role, threat): n
        for threat, n in (("clean", 40), ("noise", 40), ("grey-box", 24), ("white-box", 24))
        for role in ("purifier", "classifier", "pipeline", "defended", "spared")
    } | {("pipeline", "square"): 6}
    for found in report.rows:
        if found.role != "spared":  # its class decides
            assert found.relative_error is not None
            assert found.relative_error < 1e-4
        if found.role != "purifier":
            assert found.agreement == 1
            assert found.mcnemar_p == 1
            assert found.engine_ci95 == found.reference_ci95
    assert report.diverging == ()
    assert report.not_checked == ()


def test_accuracies_are_those_that_the_threats_let_expect(report: VerifyReport) -> None:
    assert row(report, "classifier", "grey-box").accuracy_engine <= 0.05
    assert row(report, "pipeline", "grey-box").accuracy_engine >= 0.7
    assert row(report, "pipeline", "white-box").accuracy_engine <= 0.2
    assert row(report, "classifier", "white-box").accuracy_engine >= 0.2  # it was not the one attacked
    assert row(report, "pipeline", "square").accuracy_engine < row(report, "pipeline", "clean").accuracy_engine


def test_attacks_stay_within_the_ball_of_8_bit_images(networks: Networks, shipped: RunFolder) -> None:
    table, samples = shipped.recipe.evaluation, shipped.load_samples()
    splits, attacks = live_splits(networks, Split(samples.images, samples.labels), table, SMALL, seed=0, tell=print)
    for threat, split in splits.items():
        distance = np.abs(split.images.astype(int) - splits["clean"].images[: len(split)])
        assert distance.max() == {"clean": 0}.get(threat, 25)
    assert (
        attacks["white-box"]
        == "PGD-20, Linf 0.1, step 0.0125, 1 random start, against PyTorch's purifier and classifier"
    )


def test_a_changed_weight_breaks_limits_and_its_layer_is_named(bundle_copy: Path) -> None:
    """In all three files, as a wrong conversion would have it; the hashes fit."""
    layer = "features.3.body.1.weight"
    for role, name in (("classifier", layer), ("defended", f"classifier/{layer}")):
        mutate(bundle_copy, role, lambda model, name=name: edit(model, name, lambda old: old * 1.5))  # type: ignore[misc]
    options = ["--limit", "24", "--attack-limit", "0", "--square-limit", "0", "--precision", "fp32"]
    done = CliRunner().invoke(main, [str(bundle_copy), "fashion-mnist", *options])
    assert done.exit_code == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert re.search(r"✗ relative error, \w+ fp32 classifier clean", said)
    assert re.search(
        rf"first diverging layer in fp32, clean: classifier/\S+ \(Conv of classifier/{re.escape(layer)}\), error", said
    )
    assert "FAILED" in said


def test_json_has_it_all_and_the_table_is_not_cut(bundle_path: Path) -> None:
    options = ["--limit", "24", "--attack-limit", "0", "--square-limit", "0", "--min-agreement", "0.9"]
    done = CliRunner().invoke(main, [str(bundle_path), "fashion-mnist", *options, "--json"])
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["passed"] is True
    assert {found["precision"] for found in content["rows"]} == {"fp32", "fp16"}
    assert {found["split"] for found in content["rows"]} == {"clean", "noise"}
    done = CliRunner().invoke(
        main, [str(bundle_path), "fashion-mnist", *options, "--precision", "fp16", "--engine", "onnxruntime"]
    )
    assert "Purifier and classifier, onnxruntime against live PyTorch" in done.stdout
    assert "…" not in done.stdout
    assert "layer by layer: no layer diverges" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("parity passed: ")


def test_one_run_for_another_is_refused_where_it_cannot_be_compared(bundle_path: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run"))
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"class_names": [*info["class_names"][1:], "Hat"]}))
    with pytest.raises(ValueError, match=r"was not exported from .*run: classes .*'Hat'"):
        verify(Bundle.open(bundle_path), RunFolder(run), SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "fashion-mnist"], "nowhere is not a bundle"),
        (["BUNDLE", "nowhere"], "no run 'nowhere'"),
        (["BUNDLE"], "Missing argument 'RUN'"),
        (["BUNDLE", "fashion-mnist", "--precision", "int8"], "has no defended in int8, only in fp32, fp16"),
        (["BUNDLE", "fashion-mnist", "--engine", "abacus"], "no engine 'abacus'"),
        (["BUNDLE", "fashion-mnist", "--limit", "0"], "0 is not in the range x>=1"),
        (["BUNDLE", "fashion-mnist", "--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_message(bundle_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, [str(bundle_path) if word == "BUNDLE" else word for word in arguments])
    assert message in refused(done)
