"""What a check did not look at, and why: for readers who take a pass for more than it is."""

from collections.abc import Iterator

from purify_edge.bundle.report import SIMULATION, Report
from purify_edge.check.page.subject import Subject
from purify_edge.check.page.words import in_words

BROKEN = 0.1
"""Where there are many classes: an attack that leaves more right without a purifier says little of one."""


def unchecked(report: Report, subject: Subject) -> Iterator[tuple[str, str]]:
    """What was not checked, each with the reason."""
    for left_out in report.not_checked:
        yield f"{left_out.engine} {left_out.precision}".strip(), left_out.reason
    yield from _models(report, subject)
    yield from _engines(report, subject)
    yield from _latency(report)
    yield from _attacks(report, subject)
    if report.suspicion is None:
        yield "the suspicion score", "the bundle has no threshold for it, or it was not measured here"
    splits = subject.manifest.golden.splits
    images = in_words(f"{n:,} {split}" for split, n in splits.items())
    yield "other images", f"the golden set has {images} ones; intervals say what that leaves open"
    if not subject.verified:
        yield "the bundle's origin", "no signature was verified; a checksum shows damage, not who made the bundle"


def _models(report: Report, subject: Subject) -> Iterator[tuple[str, str]]:
    """Precisions that no engine ran."""
    told = {row.precision for row in report.parity} | {
        left_out.precision for left_out in report.not_checked if not left_out.engine
    }
    others = [
        model for model in dict.fromkeys(model.precision for model in subject.manifest.models) if model not in told
    ]
    if others:
        yield in_words(others), "the bundle has these models; the check was not asked for them"
    only = {row.precision for row in report.parity} - {
        row.precision for row in report.parity if row.engine != SIMULATION
    }
    if only:
        yield f"{in_words(sorted(only))} on an engine", "only simulated here"


def _engines(report: Report, subject: Subject) -> Iterator[tuple[str, str]]:
    told = {row.engine for row in report.parity} | {left_out.engine for left_out in report.not_checked}
    engines = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
    built = dict.fromkeys(engines[entry.builder] for entry in subject.manifest.engines)
    missing = [name for name in built if name not in told]
    if missing:
        yield f"engines for {in_words(missing)}", "the bundle has them; no GPU ran them in this check"


def _latency(report: Report) -> Iterator[tuple[str, str]]:
    if not report.latency:
        yield "latency", "no timed rounds were asked for"
    elif not any("latency" in check.name for check in report.checks):
        yield "whether it is fast enough", "latency was measured, and no limit was set for it"


def _attacks(report: Report, subject: Subject) -> Iterator[tuple[str, str]]:
    splits = subject.manifest.golden.splits
    if "adversarial" not in splits:
        yield "attacks", "the golden set has no attacked images"
        return
    yield (
        "an attacker who knows the purifier",
        "the golden set's attack knows the classifier only; the white-box accuracy is the evaluation's, in PyTorch",
    )
    alone = next((row for row in report.parity if row.role == "classifier" and row.split == "adversarial"), None)
    if alone and (alone.accuracy_reference or 0) > max(BROKEN, 1 / len(subject.manifest.class_names)):
        yield (
            "how much the purifier helps",
            f"the golden set's attack leaves {alone.accuracy_reference:.1%} right without it: too weak to tell",
        )
    if not report.accuracy:
        yield (
            "accuracy on the whole test set",
            "the run has no evaluation; purify-eval makes one, purify-export takes it",
        )
    elif not report.curve:
        yield "attacks of other sizes", "the run has no evaluation with a curve; purify-eval makes one"
