"""The verification: a bundle's engines against the live PyTorch networks of the run that it was exported from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import SPARED, Divergence, NotChecked, ParityRow
from purify_edge.check.check import ALL, open_sets
from purify_edge.check.comparison import EngineSet, compare, parity_row
from purify_edge.check.limits import Limits, checks_of
from purify_edge.engines.base import in_batches
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import InputError
from purify_edge.machine import environment
from purify_edge.pipeline.prediction import answers_of
from purify_edge.pipeline.sparing import spare
from purify_edge.stats import wilson
from purify_export.convert.convert import as_floats
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.graphs import Array, float_outputs
from purify_export.gate import COMPARED, divergence
from purify_export.images.golden import attacked, noisy, reference
from purify_export.images.samples import resized
from purify_export.networks import Networks
from purify_export.progress import Tell, silent
from purify_export.verify.options import Amounts
from purify_export.verify.report import VerifyReport, VerifyRow
from purify_toolkit.attacks.base import numpy_model
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.attacks.libraries import Square
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.stats import mcnemar
from purify_toolkit.recipe import EvaluationTable
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder

SQUARE = "square"


def verify(
    bundle: Bundle,
    run: RunFolder,
    amounts: Amounts,
    *,
    data: Path | None = None,
    engine: str = "auto",
    precisions: Sequence[str] = (),
    limits: Limits | None = None,
    policy: EnginePolicy | None = None,
    tell: Tell = silent,
) -> VerifyReport:
    """Compare the bundle's engines with the run's networks on test images, and attack both.

    Args:
        bundle, engine, limits, policy, tell: see `purify_edge.check.check.check_with_examples`.
        run: that it was exported from.
        amounts: how much.
        data: the run's dataset; without it the test images that travel with the run.
        precisions: those to verify; empty for all.

    Raises:
        InputError: run and bundle do not fit, or the bundle has no such precision.
        BundleError, InputError, MissingError: see `Bundle.verify`, `open_sets`, `load_data_of`.
    """
    _check_fit(bundle, run, tell)
    bundle.verify()
    chosen = tuple(precisions) or tuple(bundle.precisions("defended"))
    for precision in chosen:
        bundle.model("defended", precision)
    networks, table, seed = Networks.load(run), run.recipe.evaluation, run.info["seed"]
    samples = _samples(bundle, run, data, amounts.limit, tell)
    rows: list[VerifyRow] = []
    with ExitStack() as stack:
        opened = open_sets(bundle, engine, precisions or (ALL,), stack, policy, load_golden(bundle))
        splits, attacks = live_splits(networks, samples, table, amounts, seed=seed, tell=tell)
        for engines in opened.sets:
            tell(f"{engines.engine}, {engines.precision}: {', '.join(splits)}")
            rows += rows_of(engines, splits, attacks, bundle)
        checks = tuple(checks_of(rows, [], limits or Limits()))
        for engines in opened.sets if amounts.square_limit else ():
            tell(f"{engines.engine}, {engines.precision}: square, {amounts.queries} queries an image")
            rows.append(square_row(engines, networks, splits["clean"], table.epsilon, amounts, seed=seed))
        used = {engines.engine: engines.version for engines in opened.sets}
    tell("layer by layer")
    diverging, unmatched = _divergences(bundle, chosen, networks, splits["clean"])
    return VerifyReport(
        environment=environment({name: version(name) for name in ("purify-edge", "torch")} | used),
        bundle=str(bundle.path),
        run=str(run.path),
        rows=tuple(rows),
        diverging=tuple(diverging),
        checks=checks,
        passed=bool(checks) and all(check.passed for check in checks),
        not_checked=(*opened.not_checked, *unmatched),
    )


def _check_fit(bundle: Bundle, run: RunFolder, tell: Tell) -> None:
    """Check that the run's networks take and give what the bundle's do; tell where another run made the bundle."""
    manifest, info = bundle.manifest, run.info
    for what, here, there in (
        ("classes", list(manifest.class_names), info["class_names"]),
        ("channels", manifest.input.channels, info["image_shape"][0]),
    ):
        if here != there:
            raise InputError(f"{bundle.path} was not exported from {run.path}: {what} {here}, the run has {there}")
    made_by = manifest.provenance.get("run")
    if made_by != info:
        tell(f"{bundle.path} says that another run made it; it is compared with {run.path} all the same")


def _samples(bundle: Bundle, run: RunFolder, data: Path | None, limit: int, tell: Tell) -> Split:
    """Return the first `limit` test images, of the bundle's size."""
    found = run.load_samples() if data is None and run.has_samples else load_data_of(run, data).test
    if len(found) < limit:
        tell(f"there are {len(found)} test images, not {limit}: --data names the folder of the run's dataset")
    contract = bundle.manifest.input
    return resized(found[:limit], (contract.height, contract.width), run.input.preprocessing)


def live_splits(
    networks: Networks, samples: Split, table: EvaluationTable, amounts: Amounts, *, seed: int, tell: Tell
) -> tuple[dict[str, GoldenSplit], dict[str, str]]:
    """Return images by threat with what the networks make of them, and the description of each attack.

    Attacks are made on the networks, with gradients: `grey-box` on the classifier alone, `white-box` on purifier and
    classifier. All images are rounded to 8 bits, within the ball.
    """
    count = min(amounts.attack_limit, len(samples.labels))
    few, labels = samples.images[:count], samples.labels[:count]
    name = str(PGD.of(table))
    attacks = {"clean": "none", "noise": f"uniform noise, Linf {table.epsilon:g}"}
    targets = {"grey-box": networks.classifier, "white-box": networks.defended} if count else {}
    if count:
        attacks["grey-box"] = f"{name}, against the classifier alone"
        attacks["white-box"] = f"{name}, against PyTorch's purifier and classifier"
    tell(f"PyTorch: clean and noise, {len(samples)} images")
    noise = noisy(samples.images, epsilon=table.epsilon, seed=seed)
    splits = {
        "clean": reference(networks, samples.images, samples.labels),
        "noise": reference(networks, noise, samples.labels),
    }
    for threat, target in targets.items():
        tell(f"PyTorch: {threat}, {count} images")
        splits[threat] = reference(networks, attacked(target, few, labels, PGD.of(table), seed=seed), labels)
    return splits, attacks


def rows_of(
    engines: EngineSet, splits: Mapping[str, GoldenSplit], attacks: Mapping[str, str], bundle: Bundle
) -> Iterator[VerifyRow]:
    """Yield what an engine makes of images by threat, against the networks."""
    found, entry = compare(engines, splits, bundle), bundle.manifest.spare
    for row in found.rows:
        split, answers = splits[row.split], found.answers.get((row.role, row.split))
        expected = split.classifier if row.role == "classifier" else split.defended
        if row.role == SPARED and entry:
            expected = spare(split.classifier, split.defended, entry)
        yield _with_test(row, answers, expected, split.labels, attacks[row.split])


def _with_test(
    row: ParityRow, answers: NDArray[np.int64] | None, expected: Array, labels: NDArray[np.int64], attack: str
) -> VerifyRow:
    """Return a row with McNemar's test of equal accuracy and both intervals; the purifier alone has neither."""
    same = VerifyRow(**msgspec.structs.asdict(row), attack=attack)
    if answers is None:
        return same
    right, reference_right = answers == labels, expected.argmax(axis=1) == labels
    return msgspec.structs.replace(
        same,
        mcnemar_p=mcnemar(reference_right, right),
        reference_ci95=wilson(int(reference_right.sum()), row.n),
        engine_ci95=wilson(int(right.sum()), row.n),
    )


def square_row(
    engines: EngineSet, networks: Networks, clean: GoldenSplit, epsilon: float, amounts: Amounts, *, seed: int
) -> VerifyRow:
    """Attack the engine itself by Square, which only asks it for answers, and return what PyTorch makes of the images.

    They lie just over the engine's boundary, where the two may well differ: no limit is set.
    """
    images = torch.from_numpy(as_floats(clean.images[: amounts.square_limit]))
    labels = torch.from_numpy(clean.labels[: amounts.square_limit])

    def logits(x: Array) -> Array:
        return in_batches(engines.stages["pipeline"], x)

    attack, generator = Square(epsilon=epsilon, queries=amounts.queries), torch.Generator().manual_seed(seed)
    found = attack(numpy_model(logits), images, labels, generator=generator)
    output = logits(np.ascontiguousarray(found.numpy()))
    with torch.no_grad():
        live = networks.defended(found).numpy()
    row = parity_row(engines, "pipeline", SQUARE, output, live, labels.numpy())
    return _with_test(row, answers_of(output), live, labels.numpy(), f"{attack}, against the engine")


def _divergences(
    bundle: Bundle, precisions: Sequence[str], networks: Networks, clean: GoldenSplit
) -> tuple[list[Divergence], list[NotChecked]]:
    """Return the first layer of each of the bundle's graphs that differs from the networks, exported anew."""
    contract = bundle.manifest.input
    shape = (contract.channels, contract.height, contract.width)
    exact = GraphPair.from_torch(networks.purifier, networks.classifier, shape).defended()
    images, names = as_floats(clean.images[:COMPARED]), set(float_outputs(exact))
    diverging: list[Divergence] = []
    unmatched: list[NotChecked] = []
    for precision in precisions:
        graph = onnx.load_model_from_string(bundle.read(bundle.model("defended", precision).file))
        if not names & {name for node in graph.graph.node for name in node.output}:
            reason = "its layers have other names than those that this version of PyTorch exports"
            unmatched.append(NotChecked(engine="layer by layer", precision=precision, reason=reason))
            continue
        diverging += divergence(graph, exact, images, precision=precision, split="clean")
    return diverging, unmatched
