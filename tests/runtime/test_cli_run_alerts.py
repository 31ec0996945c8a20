import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.fixtures import Run
from helpers.processes import json_lines
from helpers.refusals import refusal

PINNED = ("--engine", "onnxruntime", "--precision", "fp32")
"""For runs whose numbers are compared: what runs by itself depends on what else the machine does."""


@pytest.fixture
def calibrated(bundle_copy: Path) -> Callable[[float], Path]:
    """A bundle with a threshold for the suspicion score."""

    def calibrate(threshold: float) -> Path:
        path = bundle_copy / "manifest.json"
        entry = {"threshold": threshold, "false_positive_rate": 0.01, "n": 100, "images": "tests"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"suspicion": entry}))
        return bundle_copy

    return calibrate


def test_alerts_tell_of_suspicious_images(run: Run, calibrated: Callable[[float], Path], images: list[Path]) -> None:
    bundle = calibrated(1e9)
    code, out, err = run("purify-run", bundle, *images, "--json", "--alert", *PINNED)
    assert code == 0
    assert "ALERT" not in err
    scores = [line["suspicion"] for line in json_lines(out)]
    assert not any(line["suspicious"] for line in json_lines(out))
    threshold = sorted(scores)[2]
    code, out, err = run("purify-run", calibrated(threshold + 1e-3), *images, "--json", "--alert", *PINNED)
    assert code == 1
    flagged = [score > threshold + 1e-3 for score in scores]
    assert [line["suspicious"] for line in json_lines(out)] == flagged
    assert sum(flagged) == 2
    for path, suspicious in zip(images, flagged, strict=True):
        assert (f"ALERT: {path} is suspicious" in err) == suspicious
    assert "2 suspicious" in err
    code, out, err = run("purify-run", bundle, *images, *PINNED)  # without --alert it is marked, and no failure
    assert code == 0
    assert out.count("(!)") == 2
    assert "ALERT" not in err


def test_alerts_need_a_threshold(run: Run, edit_manifest: Any, images: list[Path]) -> None:
    bundle = edit_manifest(lambda manifest: manifest.pop("suspicion", None))
    message = "has no threshold for the suspicion score; export it again"
    assert message in refusal(*run("purify-run", bundle, *images, "--alert"))
