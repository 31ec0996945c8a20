"""The check: a bundle's files, run by an engine, against the golden set's PyTorch reference."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version

import msgspec
import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import LatencyRow, NotChecked, ParityRow, Report, environment
from purify_edge.check.limits import Limits, checks_of, suspicion_checks
from purify_edge.engines import ENGINES, Chain, Engine
from purify_edge.engines.latency import ROUNDS, Contestant, measure
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import BuildError, BundleError, InputError, MissingError, PurifyError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.pipeline import in_batches, open_models
from purify_edge.pipeline.suspicion import report_of, suspicion_of
from purify_edge.stats import wilson

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
BATCHES = (1, 32)
ALL, AUTO = "all", "auto"


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
        engine: `auto`, a key of ENGINES, or `all` for every engine that works here.
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
        sets, not_checked = open_sets(bundle, precisions, engine, stack, policy, asked=asked)
        compared: list[Comparison] = []
        for engines in sets:
            tell(f"parity: {engines.engine}, {engines.precision}")
            compared.append(compare(engines, golden, bundle))
        tell("latency" if rounds else "no latency: no rounds asked for")
        latency = _latency(sets, golden, bundle, rounds, also_timed or {})
    parity = [row for found in compared for row in found.rows]
    checks = list(checks_of(parity, latency, limits))
    suspicion = bundle.manifest.suspicion
    if suspicion:
        for engines, found in zip(sets, compared, strict=True):
            where = f"{engines.engine} {engines.precision}"
            checks += suspicion_checks(suspicion, golden, found.scores, limits, where=where)
    used = {engines.engine: engines.purifier.version for engines in sets}
    return Report(
        environment=environment({"purify-edge": version("purify-edge")} | used)
        | {"devices": {engines.engine: engines.purifier.device for engines in sets}},
        parity=tuple(parity),
        latency=tuple(latency),
        checks=tuple(checks),
        passed=bool(checks) and all(check.passed for check in checks),
        not_checked=tuple(not_checked),
        suspicion=report_of(suspicion, compared[0].scores) if suspicion else None,
    )


def open_sets(
    bundle: Bundle,
    precisions: Sequence[str],
    engine: str,
    stack: ExitStack,
    policy: EnginePolicy | None,
    *,
    asked: bool,
) -> tuple[list["EngineSet"], list[NotChecked]]:
    """The engines of each precision, and what this machine cannot run.

    Of several engines those that do not work here are left out. Of precisions that is only ever bfloat16, and only
    where nobody asked for it: ONNX Runtime runs all the others everywhere, and OpenVINO bfloat16 where the CPU has it.
    """
    names = tuple(ENGINES) if engine == ALL else (engine,)
    sets, not_checked = [], []
    for name in names:
        for precision in precisions:
            try:
                sets.append(EngineSet.open(bundle, precision, name, stack, policy))
            except (MissingError, BuildError) as error:
                if len(names) == 1 and (asked or precision != "bf16"):
                    raise
                engine_left_out = "" if engine == AUTO else name
                not_checked.append(NotChecked(engine=engine_left_out, precision=precision, reason=str(error)))
    if not sets:
        raise MissingError(f"no engine works here: {'; '.join(f'{left.engine} {left.reason}' for left in not_checked)}")
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


@dataclass(frozen=True)
class Comparison:
    """What an engine set made of the golden set.

    Attributes:
        rows: one for each split and each of the models, alone and chained.
        answers: by role and split the classes `[N]` that were named; -1 where an output is not a number.
        scores: the suspicion scores `[N]` of each split, of the chained models.
    """

    rows: list[ParityRow] = field(default_factory=list)
    answers: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    scores: dict[str, Array] = field(default_factory=dict)


def compare(engines: EngineSet, golden: Mapping[str, GoldenSplit], bundle: Bundle) -> Comparison:
    """Run the golden set, split by split, and compare it with the reference."""
    found = Comparison()
    for name, split in golden.items():
        images = as_batch(split.images, bundle.manifest.input)
        outputs = {role: _output(run, images, f"{engines.precision} {role}") for role, run in engines.stages().items()}
        references = {"purifier": split.purified, "classifier": split.classifier}
        for role, output in outputs.items():
            reference = references.get(role, split.defended)
            found.rows.append(parity_row(engines, role, name, output, reference, split.labels))
            if role != "purifier":
                found.answers[role, name] = answers_of(output)
        found.scores[name] = suspicion_of(outputs["classifier"], outputs["pipeline"])
    return found


def _output(run: Run, images: Array, what: str) -> Array:
    try:
        return in_batches(run, images)
    except (PurifyError, MemoryError):
        raise
    except Exception as error:  # engines' exceptions share no base but Exception
        raise BundleError(f"the {what} cannot run the golden set: {error}; export the bundle again") from error


def answers_of(logits: Array) -> NDArray[np.int64]:
    """The classes `[N]` that logits `[N, K]` name; -1, which agrees with nobody, where one is not a number."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def parity_row(
    engines: EngineSet, role: str, split: str, output: Array, reference: Array, labels: NDArray[np.int64]
) -> ParityRow:
    """An output of one of the models against the reference's."""
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
        relative_error=relative_error(output, reference),
        device=engines.purifier.device,
    )
    if role == "purifier":
        return row
    said, expected = answers_of(output), reference.argmax(axis=1)
    same = int((said == expected).sum())
    return msgspec.structs.replace(
        row,
        accuracy_reference=float((expected == labels).mean()),
        accuracy_engine=float((said == labels).mean()),
        agreement=same / n,
        agreement_ci95=wilson(same, n),
    )


def relative_error(output: Array, reference: Array) -> float:
    """Of outputs `[N, ...]`: root mean square of the difference, as a fraction of that of what differs between images.

    Against the outputs' size a small error could be all that tells one image from another. Where no image differs,
    of the output's size.
    """
    spread = reference - reference.mean(axis=0) if len(reference) > 1 else reference
    size = np.sqrt(np.square(spread, dtype=np.float64).mean())
    error = np.sqrt(np.square(output - reference, dtype=np.float64).mean())
    return float(error / size) if size else float(error > 0)


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
