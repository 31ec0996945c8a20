"""What a run's own evaluation found, for the report: accuracy by attack, and against the attack's size."""

import json
from pathlib import Path
from typing import Any

import msgspec

from purify_edge.bundle.report import AccuracyRow, CurvePoint
from purify_edge.files import file_sha256
from purify_export.progress import Tell
from purify_toolkit.evaluate.assess import default_out
from purify_toolkit.runs.folder import RunFolder


def evaluated(run: RunFolder, tell: Tell) -> tuple[tuple[AccuracyRow, ...], tuple[CurvePoint, ...]]:
    """Return accuracy by attack, and the curve: of `purify-eval` where it has been run, else of the training's end.

    An evaluation is left out, and `tell` gets why, if it is of other weights than the run has now, if its own gates
    doubt it, or if it cannot be read.
    """
    folders = dict.fromkeys((default_out(run), run.path / "evaluation"))  # the user's, and what came with a pair
    for path in (*(folder / "evaluation.json" for folder in folders), run.path / "metrics.json"):
        content = _read(path, run, tell)
        if content is not None:
            return content.rows, content.curves
    return (), ()


class _Evaluation(msgspec.Struct):
    """The part that evaluation.json and metrics.json have in common."""

    weights_sha256: dict[str, Any]
    rows: tuple[AccuracyRow, ...]
    curves: tuple[CurvePoint, ...] = ()
    passed: bool = True


def _read(path: Path, run: RunFolder, tell: Tell) -> _Evaluation | None:
    if not path.is_file():
        return None
    try:
        content = msgspec.convert(json.loads(path.read_bytes()), _Evaluation)
    except (OSError, ValueError, RecursionError) as error:
        tell(f"{path} is left out: it cannot be read ({error}); run purify-eval again")
        return None
    now = {name: file_sha256(run.weights_path(name)) for name in ("classifier", "student")}
    other = [name for name, digest in now.items() if content.weights_sha256.get(name) != digest]
    if other:
        tell(f"{path} is left out: it is of another {' and '.join(other)}; run purify-eval again")
        return None
    if not content.passed:
        tell(f"{path} is left out: its own sanity gates doubt it")
        return None
    return content
