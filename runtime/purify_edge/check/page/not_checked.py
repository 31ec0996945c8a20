"""What a check did not look at, and why: for readers who take a pass for more than it is."""

from collections.abc import Iterator

from purify_edge.bundle.report import SIMULATION, Report
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.document.model import Bullets, Section
from purify_edge.document.wording import in_words

WEAK_ATTACK = 0.1
"""An attack that leaves a larger share right without a purifier says little about one, where classes are many."""


def not_checked_section(report: Report, about: CheckedBundle) -> Section:
    """Return the section on what was not checked."""
    return Section("What was not checked", (Bullets(tuple(not_checked(report, about))),))


def not_checked(report: Report, about: CheckedBundle) -> Iterator[tuple[str, str]]:
    """Yield what was not checked, each with the reason."""
    for left_out in report.not_checked:
        yield f"{left_out.engine} {left_out.precision}".strip(), left_out.reason
    yield from _models(report, about)
    yield from _engines(report, about)
    yield from _latency(report)
    yield from _attacks(report, about)
    if report.suspicion is None:
        yield "the suspicion score", "the bundle has no threshold for it, or it was not measured here"
    splits = about.manifest.golden.splits
    images = in_words(f"{n:,} {split}" for split, n in splits.items())
    yield "other images", f"the golden set has {images} ones; intervals say what that leaves open"
    if not about.verified:
        yield "the bundle's origin", "no signature was verified; a checksum shows damage, not who made the bundle"


def _models(report: Report, about: CheckedBundle) -> Iterator[tuple[str, str]]:
    """Yield the precisions that no engine ran."""
    told = {row.precision for row in report.parity} | {
        left_out.precision for left_out in report.not_checked if not left_out.engine
    }
    others = [model for model in dict.fromkeys(model.precision for model in about.manifest.models) if model not in told]
    if others:
        yield in_words(others), "the bundle has these models; the check did not include them"
    only = {row.precision for row in report.parity} - {
        row.precision for row in report.parity if row.engine != SIMULATION
    }
    if only:
        yield f"{in_words(sorted(only))} on an engine", "only simulated here"


def _engines(report: Report, about: CheckedBundle) -> Iterator[tuple[str, str]]:
    told = {row.engine for row in report.parity} | {left_out.engine for left_out in report.not_checked}
    engines = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
    built = dict.fromkeys(engines[entry.builder] for entry in about.manifest.engines)
    missing = [name for name in built if name not in told]
    if missing:
        yield f"engines for {in_words(missing)}", "the bundle has them; no GPU ran them in this check"


def _latency(report: Report) -> Iterator[tuple[str, str]]:
    if not report.latency:
        yield "latency", "no timed rounds were requested"
    elif not any("latency" in check.name for check in report.checks):
        yield "whether it is fast enough", "latency was measured, and no limit was set for it"


def _attacks(report: Report, about: CheckedBundle) -> Iterator[tuple[str, str]]:
    splits = about.manifest.golden.splits
    if "adversarial" not in splits:
        yield "attacks", "the golden set has no attacked images"
        return
    yield (
        "an attacker who knows the purifier",
        "the golden set's attack knows the classifier only; the white-box accuracy is the evaluation's, in PyTorch",
    )
    alone = next((row for row in report.parity if row.role == "classifier" and row.split == "adversarial"), None)
    if alone and (alone.accuracy_reference or 0) > max(WEAK_ATTACK, 1 / len(about.manifest.class_names)):
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
