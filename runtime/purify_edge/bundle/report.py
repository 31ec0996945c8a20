"""The report: what parity, accuracy and latency were, and whether the limits hold."""

from typing import Any

import msgspec

from purify_edge.bundle.manifest import BenignChange, Score

SIMULATION = "simulation"
"""The engine of rows that tell, by float32, what a graph does as it is written; the exporter's.

In 16 bits each weight and each tensor is rounded; INT8 has no sums of integers, which may saturate.
"""
SPARED = "spared"
"""The role of answers with `spare_clean`: at the threshold the logits may be either network's, so the class decides."""


LOSSLESS = "fp32"
MAX_ERROR = 1e-4
"""How far logits may differ, by `relative_error`, between engines that may take turns."""
LEAST_ANSWERS, ONE_IN = 200, 200
"""A lossy precision needs so many golden answers, of which at most one in so many may differ from PyTorch's."""


class ParityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One engine file against the PyTorch reference, on one split of the golden set.

    `role` `pipeline` is the purifier's engine chained to the classifier's, `spared` the same with clean images spared,
    without a relative error. Accuracies and agreement are fractions of n images; they are None for the purifier alone.
    Differences are of logits, for the purifier of pixels; `relative_error` is their root mean square as a fraction of
    that of what differs between images; `alone_error` is that of a few images, each run alone, to the same in their
    batch.
    """

    engine: str
    precision: str
    role: str
    split: str
    n: int
    accuracy_reference: float | None = None
    accuracy_engine: float | None = None
    agreement: float | None = None
    agreement_ci95: tuple[float, float] | None = None
    max_abs_diff: float
    mean_abs_diff: float
    relative_error: float | None = None
    alone_error: float | None = None
    device: str = "cpu"


class LatencyRow(msgspec.Struct, frozen=True, kw_only=True):
    """How long one stage took for a batch, in milliseconds, over n timed calls interleaved with the other stages."""

    engine: str
    precision: str
    stage: str
    batch: int
    n: int
    warmup: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    images_per_s: float


class EnergyRow(msgspec.Struct, frozen=True, kw_only=True):
    """The energy that one stage took for an image, in mJ: one meter's, over n calls in a row, for so many seconds.

    `mj_per_image` is all that the meter counted meanwhile, `mj_per_image_above_idle` what is left of it without
    `idle_w`, which it counted a little before, with the same models open and nothing running.
    """

    engine: str
    precision: str
    stage: str
    batch: int
    meter: str
    n: int
    seconds: float
    mj_per_image: float
    mj_per_image_above_idle: float
    power_w: float
    idle_w: float


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One limit and whether it holds."""

    name: str
    value: float
    limit: float
    passed: bool


class KeptLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that stays in float32 in the models of a lower precision, and why; `defended` has the layers of both."""

    precision: str
    role: str
    node: str
    operator: str
    weight: str
    reason: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A conversion that was tried on n calibration images a split, with what accuracy it lost on each.

    Of the `layers` that INT8 can hold `float32_layers` were left in float32; `drop` is a fraction, by split.
    """

    precision: str
    float32_layers: int
    layers: int
    n: int
    drop: dict[str, float]
    limit: float
    passed: bool


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first layer whose output differs from the float32 graph's by more than the tolerance; see `error`.

    `error` is the root mean square of the difference, as a fraction of that of what differs between images.
    """

    precision: str
    split: str
    node: str
    operator: str
    weight: str
    error: float
    tolerance: float


class NotChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A precision that an engine cannot run on this machine, or not as it is written, or an engine that cannot work."""

    precision: str
    reason: str
    engine: str = ""


class AccuracyRow(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy under one attack, a fraction of n test images: what the run's own evaluation found, in PyTorch.

    `threat` is what the attacker knows, `defended` whether the purifier stands before the classifier.
    """

    threat: str
    attack: str
    defended: bool
    n: int
    accuracy: float
    ci95: tuple[float, float]


class CurvePoint(AccuracyRow, frozen=True, kw_only=True):
    """Likewise, where the same attack was tried in several sizes; `size` is in pixels in [0, 1]."""

    size: float


class SuspicionSplit(msgspec.Struct, frozen=True, kw_only=True):
    """The suspicion scores of one split of the golden set.

    `flagged` is the fraction above the threshold; `auroc` the chance that an image of this split scores higher than a
    clean one, None for the clean split itself; `counts` the histogram over the report's edges.
    """

    split: str
    n: int
    flagged: float
    auroc: float | None
    counts: tuple[int, ...]


class SuspicionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The suspicion score on the golden set, by the first engine and precision of the report.

    `n_calibration` clean images set the threshold, for `false_positive_rate`, and for `benign_rate` after each change
    of `benign`, whose figures are PyTorch's at export; `edges` are those of the histograms, one more than there are
    counts. An attacker who knows the score can keep it low.
    """

    threshold: float
    false_positive_rate: float
    n_calibration: int
    edges: tuple[float, ...]
    splits: tuple[SuspicionSplit, ...]
    score: Score = "logit-change"
    benign_rate: float | None = None
    benign: tuple[BenignChange, ...] = ()


class Agreement(msgspec.Struct, frozen=True):
    """How n golden answers, clean and attacked, compare with PyTorch's."""

    n: int  # answers that there was time for
    same: int  # answers that name PyTorch's class
    error: float  # the relative error of the logits

    def admits(self, precision: str) -> bool:
        """Return whether a pipeline may choose this precision by itself."""
        if precision == LOSSLESS:
            return self.error <= MAX_ERROR
        return self.n >= LEAST_ANSWERS and (self.n - self.same) * ONE_IN <= self.n

    def __str__(self) -> str:
        return f"{self.same} of {self.n} golden answers are as PyTorch's"


class Plan(msgspec.Struct, frozen=True):
    """What runs a bundle, for people, reports and programs."""

    engine: str  # that runs a single image now
    device: str
    precision: str  # in which everything is computed, for the pipeline's life
    ways: tuple[str, ...]  # what may take turns, as text; the first is what a pipeline begins with
    running: dict[str, str] = {}  # what runs each kind of call now, by kind and size of batch, as text
    gain: float | None = None  # times as fast as in float32, where a lossy precision was chosen by itself
    agreement: Agreement | None = None  # of the golden answers with PyTorch's, where that was looked at
    left_out: dict[str, str] = {}  # other engines and precisions -> why they do not run

    def __str__(self) -> str:
        gain = f", {self.gain:.1f} times as fast as float32 here" if self.gain else ""
        agreement = f"; {self.agreement}" if self.agreement else ""
        engines = dict.fromkeys(way.partition(" ")[0] for way in self.ways)
        return f"{' or '.join(engines)} in {self.precision} on {self.device}{gain}{agreement}"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `purify-check --json` prints and report.json holds.

    `kept`, `attempts` and `diverging` describe the conversions, `accuracy` and `curve` the run's evaluation; all of
    them are the exporter's. What is `not_checked` has no part in `passed`. `plan` is what `purify-run` runs here, where
    the check was of that. `energy` is there where the machine has a meter that can be read; the environment's `power`
    has meters, power mode and temperatures.
    """

    environment: dict[str, Any]
    parity: tuple[ParityRow, ...]
    latency: tuple[LatencyRow, ...]
    checks: tuple[Check, ...]
    passed: bool
    not_checked: tuple[NotChecked, ...] = ()
    kept: tuple[KeptLayer, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    diverging: tuple[Divergence, ...] = ()
    accuracy: tuple[AccuracyRow, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    suspicion: SuspicionReport | None = None
    plan: Plan | None = None
    energy: tuple[EnergyRow, ...] = ()

    def with_checks(self, *more: Check) -> "Report":
        """Return the report with further limits, which must hold too."""
        return msgspec.structs.replace(
            self, checks=(*self.checks, *more), passed=self.passed and all(check.passed for check in more)
        )


def encode_report(report: Report) -> bytes:
    """Return the report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
