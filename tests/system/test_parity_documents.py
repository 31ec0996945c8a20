"""What the documents say of parity and suspicion is what the code does and the bundle holds."""

import json
import re
from pathlib import Path

from lab.studies.changed_weights import CHANGES
from lab.studies.suspicion_scores import SCORES
from purify_edge.check.cli import main as check
from purify_edge.check.limits import MAX_ERROR, Limits

REPOSITORY = Path(__file__).parent.parent.parent
PARITY = " ".join((REPOSITORY / "docs/parity.md").read_text().split())
SUSPICION = " ".join((REPOSITORY / "docs/suspicion.md").read_text().split())
README = " ".join((REPOSITORY / "README.md").read_text().split())


def test_limits_and_options() -> None:
    for limit in (
        f"float32 {MAX_ERROR['fp32']:.4f}, on a GPU {MAX_ERROR['tf32']}; float16 {MAX_ERROR['fp16']}; "
        f"bfloat16 and INT8 {MAX_ERROR['int8']} | `--max-error`",
        f"{100 * Limits.max_accuracy_drop:g} point | `--max-accuracy-drop`",
        f"{100 * Limits.max_flagged_change:g} points | `--max-flagged-change`",
    ):
        assert limit in PARITY
    assert MAX_ERROR["bf16"] == MAX_ERROR["int8"]
    options = {option for parameter in check.params for option in parameter.opts}
    assert set(re.findall(r"`(--m[a-z-]+)`", PARITY)) <= options


def test_the_tables_are_those_of_the_studies() -> None:
    assert f"| precision | limit | {' | '.join(CHANGES)} |" in PARITY
    for score in SCORES:
        assert f"| {score} | " in SUSPICION


def test_the_shares_are_those_of_an_export(bundle_path: Path) -> None:
    found = json.loads((bundle_path / "report.json").read_text())["suspicion"]
    shares = {split["split"]: f"{100 * split['flagged']:.1f}%" for split in found["splits"]}
    clean, attacked, noisy = (shares[split] for split in ("clean", "adversarial", "noise"))
    assert f"{clean} of the clean images are flagged, {attacked} of the attacked ones" in SUSPICION
    assert f"{noisy} of the noisy ones" in SUSPICION
    worst = max(found["benign"], key=lambda row: row["flagged"])
    assert f"at most {100 * worst['flagged']:.1f}% after the twelve benign changes ({worst['change']})" in SUSPICION
    assert f"threshold from {found['n_calibration']} test images; {found['splits'][0]['n']} images a split" in SUSPICION
    assert f"{attacked} of 256 attacked images are flagged, and {clean} of 256 clean ones" in README
