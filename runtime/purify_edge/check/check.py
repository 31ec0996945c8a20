"""The check: a bundle's files, run as they will be run here, against the golden set's PyTorch reference."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import EnergyRow, NotChecked, Plan, Report
from purify_edge.check.comparison import Comparison, EngineSet, Run, compare
from purify_edge.check.decoder import decoder_checks
from purify_edge.check.limits import Limits, checks_of, suspicion_checks
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.examples import subject_of
from purify_edge.check.served import served_checks
from purify_edge.engines.energy import measure_energy
from purify_edge.engines.latency import ROUNDS, Contestant, measure
from purify_edge.engines.models import Models, Setup
from purify_edge.engines.plan import AUTO, open_plan
from purify_edge.engines.registry import ENGINES, computed_precisions
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import BuildError, InputError, MissingError
from purify_edge.images.arrays import as_batch
from purify_edge.machine import environment
from purify_edge.pipeline.suspicion import report_of
from purify_edge.power.condition import condition
from purify_edge.power.meters import find_meters
from purify_edge.power.nvml import NvmlGpu

BATCHES = (1, 32)
ALL = "all"
Contestants = Mapping[Contestant, Callable[[], object]]


def check_bundle(bundle: Bundle, **options: Any) -> Report:
    """Return the report of `check_with_examples`, which has the same arguments."""
    return check_with_examples(bundle, **options)[0]


def check_with_examples(
    bundle: Bundle,
    *,
    engine: str = AUTO,
    precisions: Sequence[str] = (),
    limits: Limits | None = None,
    rounds: int = ROUNDS,
    policy: EnginePolicy | None = None,
    also_timed: Contestants | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Report, CheckedBundle]:
    """Compare the models that run here with the golden set, and time them; measure energy where there is a meter.

    Of `auto` or of one engine each file is read once and each model opened once.

    Args:
        bundle: the bundle.
        engine: `auto`, a key of ENGINES, or `all` for every engine that works here beside what `auto` takes.
        precisions: those to check, `auto` for the one that `purify-run` takes and `all` for all that the bundle has;
            empty for `auto`, and where `engine` is `all` for both.
        limits: what must hold; None for the defaults.
        rounds: timed calls of each contestant, 0 for no timing.
        policy: what may be done about engine files; None for the defaults.
        also_timed: further contestants in the same rounds, such as the PyTorch reference.
        tell: told what is being done.

    Returns:
        The report, and for its page the bundle with what the report's first engine made of a few golden images.

    Raises:
        BundleError, InputError, MissingError: see `open_plan` and `load_golden`.
    """
    limits = limits or Limits()
    if limits.max_latency_ms is not None and not rounds:
        raise InputError("a latency limit needs at least one timed round")
    golden = load_golden(bundle)
    with ExitStack() as stack:
        opened = open_sets(bundle, engine, precisions, stack, policy, golden)
        if opened.plan:
            tell(f"purify-run takes {opened.plan}")
        compared: list[Comparison] = []
        for engines in opened.sets:
            tell(f"parity: {engines.engine}, {engines.precision}")
            compared.append(compare(engines, golden, bundle))
        tell("latency" if rounds else "no latency: no rounds requested")
        contestants = _contestants(opened.sets, golden, bundle, also_timed or {}) if rounds else {}
        latency = measure(contestants, rounds=rounds) if rounds else []
        devices = {engines.engine: engines.device for engines in opened.sets}
        energy, power = _energy(contestants, devices, tell)
    parity = [row for found in compared for row in found.rows]
    checks = [*checks_of(parity, latency, limits), *decoder_checks(bundle)]
    served, left = served_checks(bundle, golden, [engines.precision for engines in opened.sets], limits)
    checks += served
    opened.not_checked += left
    bundle.verify()
    suspicion = bundle.manifest.suspicion
    if suspicion:
        for engines, found in zip(opened.sets, compared, strict=True):
            where = f"{engines.engine} {engines.precision}"
            checks += suspicion_checks(suspicion, golden, found.scores, limits, where=where)
    used = {engines.engine: engines.version for engines in opened.sets}
    report = Report(
        environment=environment({"purify-edge": version("purify-edge")} | used) | {"devices": devices} | power,
        parity=tuple(parity),
        latency=tuple(latency),
        checks=tuple(checks),
        passed=bool(checks) and all(check.passed for check in checks),
        not_checked=tuple(opened.not_checked),
        suspicion=report_of(suspicion, compared[0].scores) if suspicion else None,
        plan=opened.plan,
        energy=tuple(energy),
    )
    return report, subject_of(bundle, golden, compared[0])


class OpenedSets:
    """The engines to check, what this machine cannot run, and the plan where what `purify-run` takes is checked."""

    def __init__(self) -> None:
        self.sets: list[EngineSet] = []
        self.not_checked: list[NotChecked] = []
        self.plan: Plan | None = None

    def add(self, models: Models) -> None:
        """Add models to check, once for an engine and a precision."""
        if not any(
            models.setup.engine == other.engine and models.setup.precision == other.precision for other in self.sets
        ):
            self.sets.append(EngineSet.of(models))

    def try_to_add(self, models: Models) -> None:
        """Add models; note why they cannot be checked where they do not work here."""
        try:
            self.add(models)
        except (MissingError, BuildError) as error:
            setup = models.setup
            self.not_checked.append(NotChecked(engine=setup.engine, precision=setup.precision, reason=str(error)))


def open_sets(
    bundle: Bundle,
    engine: str,
    precisions: Sequence[str],
    stack: ExitStack,
    policy: EnginePolicy | None,
    golden: Mapping[str, GoldenSplit],
) -> OpenedSets:
    """Open what is to be checked; see `check_with_examples` for the arguments; `stack` closes them.

    Of `all` engines or precisions those that do not work here are left out, and named.

    Raises:
        BundleError, InputError, MissingError, BuildError: see `open_plan`.
    """
    known = bundle.precisions("defended")
    unknown = [name for name in precisions if name not in (*known, ALL, AUTO) and name not in computed_precisions()]
    if unknown:
        raise InputError(f"{bundle.path} has no {', '.join(unknown)}, only {', '.join(known)}")
    opened = OpenedSets()
    everything = ALL in (engine, *precisions)
    asked = precisions or ((AUTO, ALL) if engine == ALL else (AUTO,))
    for precision in [name for word in asked for name in (known if word == ALL else [word])]:
        try:
            named = AUTO if engine == ALL else engine
            planned = open_plan(
                bundle, engine=named, precision=precision, policy=policy, keep_others=True, golden=lambda: golden
            )
        except (MissingError, BuildError) as error:
            if not everything:
                raise
            opened.not_checked.append(NotChecked(engine="", precision=precision, reason=str(error)))
            continue
        stack.enter_context(planned)
        opened.plan = opened.plan or (planned.plan if precision == AUTO else None)
        for models in planned.ways:
            opened.add(models)
        for models in planned.others:
            opened.try_to_add(models)
    for setup in _other_setups(known, precisions) if engine == ALL else ():
        opened.try_to_add(stack.enter_context(Models(bundle, setup, policy)))
    if not opened.sets:
        reasons = "; ".join(f"{left.engine} {left.reason}".strip() for left in opened.not_checked)
        raise MissingError(f"no engine works here: {reasons}")
    return opened


def _other_setups(known: Sequence[str], precisions: Sequence[str]) -> Iterator[Setup]:
    """Yield every engine in every requested precision, or in every one that the bundle has."""
    wanted = [name for name in precisions if name not in (ALL, AUTO)] or known
    for name in ENGINES:
        for precision in wanted:
            if precision in known:
                yield Setup(name, precision, precision)


def _contestants(
    sets: Sequence[EngineSet], golden: Mapping[str, GoldenSplit], bundle: Bundle, also_timed: Contestants
) -> Contestants:
    """Return each stage of each engine for each size of batch, and what else is to be timed."""
    images = as_batch(some_images(next(iter(golden.values())), max(BATCHES)), bundle.manifest.input)
    contestants = {
        Contestant(engines.engine, engines.precision, stage, batch): _call(run, images[:batch])
        for batch in BATCHES
        for engines in sets
        for stage, run in engines.stages.items()
    }
    return contestants | dict(also_timed)


def _energy(
    contestants: Contestants, devices: Mapping[str, str], tell: Callable[[str], None]
) -> tuple[list[EnergyRow], dict[str, Any]]:
    """Measure what was timed by the meters that there are; also return what the report says of them, if anything."""
    if not contestants:
        return [], {}
    gpu = _gpu() if any(device.startswith("cuda") for device in devices.values()) else None
    meters, not_readable = find_meters(gpu)
    rows: list[EnergyRow] = []
    failed: list[str] = []
    if meters:
        tell(f"energy: {', '.join(meter.name for meter in meters)}")
        rows, failed = measure_energy(contestants, meters, devices)
    about = {"meters": [meter.name for meter in meters], "not_readable": [*not_readable, *failed]}
    power = {name: value for name, value in (about | condition(gpu)).items() if value}
    return rows, {"power": power} if power else {}


def _gpu() -> NvmlGpu | None:
    try:
        return NvmlGpu()
    except OSError:  # no NVML: the engines have said already whether there is a GPU
        return None


def some_images(split: GoldenSplit, count: int) -> NDArray[np.uint8]:
    """Return so many images of a split, uint8 `[N, H, W, C]`; they repeat where it has fewer."""
    return np.resize(split.images, (count, *split.images.shape[1:]))


def _call(run: Run, x: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: run(x)
