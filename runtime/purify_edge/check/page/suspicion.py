"""The section on the suspicion score: histograms with the threshold, and how many images it flags."""

from purify_edge.bundle.manifest import BenignChange, Score
from purify_edge.bundle.report import Report, SuspicionReport, SuspicionSplit
from purify_edge.check.page.plots import histogram_plot
from purify_edge.document.model import Block, Plot, Plots, Section, TableRow, table
from purify_edge.document.wording import percent, plural, with_interval
from purify_edge.stats import wilson

KEY = (
    "Share of the images by score, on the same axes; the first bin holds all lower scores too. What lies above the "
    "dashed threshold has another colour."
)

ANSWER: dict[Score, str] = {
    "logit-change": "the classifier's answer",
    "confident-change": "an answer that the classifier was sure of",
}


def suspicion_section(report: Report) -> Section | None:
    """Return how the scores of the golden images lie about the threshold."""
    found = report.suspicion
    if found is None:
        return None
    how = (
        f"How far purification moves {ANSWER[found.score]}. The threshold "
        f"{found.threshold:.3g} was set on {plural(found.n_calibration, 'clean image')}, so that it flags at most "
        f"{percent(found.false_positive_rate)}% of clean images of the calibration's kind{_benign(found)}; of other "
        "pictures more may be flagged. An attacker who knows the score can keep it low."
    )
    highest = max((max(split.counts, default=0) / (sum(split.counts) or 1) for split in found.splits), default=0.0)
    plots = tuple(_plot(split, found, highest) for split in found.splits)
    caption = (
        f"Images flagged, with 95% intervals (Wilson); the threshold is for {percent(found.false_positive_rate)}% of "
        "clean images of the calibration's kind"
    )
    numbers = table(caption, ("images", "n", "flagged, %", "AUROC against clean"), map(_row, found.splits))
    parts: list[Block] = [Plots(KEY, plots, numbers)]
    if found.benign:
        caption = "False alarms: golden images flagged after a change that is no attack, severities 1 to 3, by PyTorch"
        parts.append(table(caption, ("change", "n", "flagged, %"), map(_alarms, found.benign)))
    return Section("Suspicion score", tuple(parts), intro=how)


def _benign(found: SuspicionReport) -> str:
    if found.benign_rate is None:
        return ""
    return f", and {percent(found.benign_rate)}% after a change by noise, blur, light or storage"


def _alarms(row: BenignChange) -> TableRow:
    return TableRow((row.change, f"{row.n:,}", with_interval(row.flagged, wilson(round(row.flagged * row.n), row.n))))


def _plot(split: SuspicionSplit, found: SuspicionReport, highest: float) -> Plot:
    flagged = f"{percent(split.flagged)}% flagged"
    return Plot(
        f"{split.split}, {plural(split.n, 'image')}, {flagged}",
        histogram_plot(split.counts, found.edges, found.threshold, highest=highest),
        f"Histogram of the suspicion score of {split.split} images: {flagged} by the threshold {found.threshold:.3g}",
    )


def _row(split: SuspicionSplit) -> TableRow:
    flagged = with_interval(split.flagged, wilson(round(split.flagged * split.n), split.n))
    auroc = "" if split.auroc is None else f"{split.auroc:.3f}"
    return TableRow((split.split, f"{split.n:,}", flagged, auroc))
