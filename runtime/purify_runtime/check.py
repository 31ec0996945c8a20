"""The check: a bundle's files, run by an engine, against the golden set's PyTorch reference."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

import msgspec
import numpy as np
from numpy.typing import NDArray

from purify_runtime.bundle import Bundle
from purify_runtime.engine_files import EnginePolicy
from purify_runtime.engines import Chain, Engine
from purify_runtime.errors import BundleError, InputError
from purify_runtime.golden import GoldenSplit, load_golden
from purify_runtime.images import as_batch
from purify_runtime.latency import ROUNDS, Contestant, measure
from purify_runtime.pipeline import in_batches, open_models
from purify_runtime.report import Check, LatencyRow, NotChecked, ParityRow, Report, environment
from purify_runtime.stats import wilson

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
BATCHES = (1, 32)
MIN_AGREEMENT = {"fp32": 0.995, "fp16": 0.995, "bf16": 0.95, "int8": 0.95}
"""Fewer bits turn images that lie between two classes, either way: there it is accuracy that decides."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must hold; a violated limit fails the check.

    Attributes:
        min_agreement: the smallest fraction of golden images on which engine and reference may name the same class;
            None for that of the precision in MIN_AGREEMENT.
        max_accuracy_drop: by how much the engine's accuracy may lie below the reference's, as a fraction.
        max_latency_ms: the largest median latency of the pipeline at batch 1; None for no limit.
    """

    min_agreement: float | None = None
    max_accuracy_drop: float = 0.01
    max_latency_ms: float | None = None


def check_bundle(
    bundle: Bundle,
    *,
    engine: str = "auto",
    precisions: Sequence[str] = (),
    limits: Limits | None = None,
    rounds: int = ROUNDS,
    policy: EnginePolicy | None = None,
    also_timed: Mapping[Contestant, Callable[[], object]] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare every model of the bundle with the golden set, and time it.

    Args:
        bundle: the bundle.
        engine: `auto`, or a key of ENGINES.
        precisions: those to check; empty for all that the bundle has.
        limits: what must hold; None for the defaults.
        rounds: timed calls of each contestant, 0 for no timing.
        policy: what may be done about engine files; None for the defaults.
        also_timed: further contestants in the same rounds, the PyTorch reference, say.
        tell: told what is being done.

    Raises:
        BundleError, InputError, MissingError: see `open_model` and `load_golden`.
    """
    limits = limits or Limits()
    if limits.max_latency_ms is not None and not rounds:
        raise InputError("a latency limit needs at least one timed round")
    bundle.verify()
    golden = load_golden(bundle)
    asked = bool(precisions)
    precisions = precisions or bundle.precisions("defended")
    unknown = [name for name in precisions if name not in bundle.precisions("defended")]
    if unknown:
        raise InputError(f"{bundle.path} has no {', '.join(unknown)}, only {', '.join(bundle.precisions('defended'))}")
    with ExitStack() as stack:
        sets, not_checked = _open(bundle, precisions, engine, stack, policy, asked=asked)
        parity: list[ParityRow] = []
        for engines in sets:
            tell(f"parity: {engines.engine}, {engines.precision}")
            parity += parity_of(engines, golden, bundle)
        tell("latency" if rounds else "no latency: no rounds asked for")
        latency = _latency(sets, golden, bundle, rounds, also_timed or {})
    checks = list(checks_of(parity, latency, limits))
    used = {engines.engine: engines.purifier.version for engines in sets}
    return Report(
        environment=environment({"purify-edge": version("purify-edge")} | used)
        | {"devices": {engines.engine: engines.purifier.device for engines in sets}},
        parity=tuple(parity),
        latency=tuple(latency),
        checks=tuple(checks),
        passed=bool(checks) and all(check.passed for check in checks),
        not_checked=tuple(not_checked),
    )


def _open(
    bundle: Bundle,
    precisions: Sequence[str],
    engine: str,
    stack: ExitStack,
    policy: EnginePolicy | None,
    *,
    asked: bool,
) -> tuple[list["EngineSet"], list[NotChecked]]:
    """The engines of each precision, and the precisions that this machine's engine has no kernels for.

    Only bfloat16 is ever left out, and only where nobody asked for it: ONNX Runtime runs all the others everywhere.
    """
    sets, not_checked = [], []
    for precision in precisions:
        try:
            sets.append(EngineSet.open(bundle, precision, engine, stack, policy))
        except BundleError as error:
            if asked or precision != "bf16":
                raise
            not_checked.append(NotChecked(precision=precision, reason=str(error.__cause__ or error)))
    return sets, not_checked


@dataclass(frozen=True)
class EngineSet:
    """The three models of one precision, opened."""

    precision: str
    purifier: Engine
    classifier: Engine
    defended: Engine
    pipeline: Chain

    @classmethod
    def open(
        cls, bundle: Bundle, precision: str, engine: str, stack: ExitStack, policy: EnginePolicy | None = None
    ) -> "EngineSet":
        """Open the models of a precision; `stack` closes them."""
        opened = open_models(bundle, ("purifier", "classifier", "defended"), precision, engine, policy)
        purifier, classifier, defended = map(stack.enter_context, opened)
        pipeline = purifier.then(classifier)
        stack.callback(pipeline.close)
        return cls(precision, purifier, classifier, defended, pipeline)

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.purifier.name

    def stages(self) -> dict[str, Run]:
        """What can be run: the three models, and purifier and classifier chained."""
        return {
            "purifier": self.purifier.run,
            "classifier": self.classifier.run,
            "pipeline": self.pipeline.last,
            "defended": self.defended.run,
        }


def parity_of(engines: EngineSet, golden: Mapping[str, GoldenSplit], bundle: Bundle) -> Iterable[ParityRow]:
    """A row for each split of the golden set and each of the models, alone and chained."""
    for name, split in golden.items():
        images = as_batch(split.images, bundle.manifest.input)
        references = {"purifier": split.purified, "classifier": split.classifier}
        for role, run in engines.stages().items():
            output, reference = in_batches(run, images), references.get(role, split.defended)
            yield _parity_row(engines, role, name, output, reference, split.labels)


def _parity_row(
    engines: EngineSet, role: str, split: str, output: Array, reference: Array, labels: NDArray[np.int64]
) -> ParityRow:
    difference = np.abs(output - reference)
    n = len(labels)
    row = ParityRow(
        engine=engines.engine,
        precision=engines.precision,
        role=role,
        split=split,
        n=n,
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
    )
    if role == "purifier":
        return row
    said, expected = output.argmax(axis=1), reference.argmax(axis=1)
    valid = np.isfinite(output).all(axis=1)  # an engine that gives NaN or infinity agrees with nobody
    same = int(((said == expected) & valid).sum())
    return msgspec.structs.replace(
        row,
        accuracy_reference=float((expected == labels).mean()),
        accuracy_engine=float(((said == labels) & valid).mean()),
        agreement=same / n,
        agreement_ci95=wilson(same, n),
    )


def _latency(
    sets: Sequence[EngineSet],
    golden: Mapping[str, GoldenSplit],
    bundle: Bundle,
    rounds: int,
    also_timed: Mapping[Contestant, Callable[[], object]],
) -> list[LatencyRow]:
    if not rounds:
        return []
    images = as_batch(some_images(next(iter(golden.values())), max(BATCHES)), bundle.manifest.input)
    contestants = {
        Contestant(engines.engine, engines.precision, stage, batch): _call(run, images[:batch])
        for batch in BATCHES
        for engines in sets
        for stage, run in engines.stages().items()
    }
    return measure(contestants | dict(also_timed), rounds=rounds)


def some_images(split: GoldenSplit, count: int) -> NDArray[np.uint8]:
    """So many images of a split, uint8 `[N, H, W, C]`; they repeat where it has fewer."""
    return np.resize(split.images, (count, *split.images.shape[1:]))


def _call(run: Run, x: Array) -> Callable[[], object]:
    return lambda: run(x)


def checks_of(parity: Iterable[ParityRow], latency: Iterable[LatencyRow], limits: Limits) -> Iterable[Check]:
    """The limits of agreement, of accuracy and, where one is set, of latency."""
    for row in parity:
        if row.agreement is None or row.accuracy_engine is None or row.accuracy_reference is None:
            continue
        where = f"{row.engine} {row.precision} {row.role} {row.split}"
        drop = row.accuracy_reference - row.accuracy_engine
        least = MIN_AGREEMENT[row.precision] if limits.min_agreement is None else limits.min_agreement
        yield Check(
            name=f"agreement, {where}",
            value=row.agreement,
            limit=least,
            passed=row.agreement >= least,
        )
        yield Check(
            name=f"accuracy drop, {where}",
            value=drop,
            limit=limits.max_accuracy_drop,
            passed=drop <= limits.max_accuracy_drop,
        )
    if limits.max_latency_ms is None:
        return
    for timed in latency:
        if (timed.stage, timed.batch) == ("pipeline", 1):
            yield Check(
                name=f"median latency in ms, {timed.engine} {timed.precision} pipeline, batch 1",
                value=timed.p50_ms,
                limit=limits.max_latency_ms,
                passed=timed.p50_ms <= limits.max_latency_ms,
            )
