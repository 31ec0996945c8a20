"""Time every engine that runs on a GPU beside PyTorch, eager and compiled.

python -m lab.studies.gpu [RUN] [--batches 1,8,64] [--rounds 200] [--out docs/results/gpu.md]

RUN is a run folder, or the name of a pair that ships. It is exported in float32 and float16; each engine on the GPU is
compared with PyTorch's answers in the golden set. Then all take turns, round by round, in one process: from float32
images in the host's memory to logits there. Prints Markdown, or writes it to --out. Exit code 1 where an engine breaks
a limit of parity, 3 where there is no GPU.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lab.studies.common import guarded, markdown, positive, write_text
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import Precision
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Check, LatencyRow, ParityRow
from purify_edge.check.check import some_images
from purify_edge.check.comparison import EngineSet, compare
from purify_edge.check.limits import Limits, checks_of
from purify_edge.engines.latency import Contestant, measure
from purify_edge.engines.models import Models, Setup
from purify_edge.engines.registry import engines_on
from purify_edge.engines.tensorrt.cudart import open_cuda
from purify_edge.errors import BuildError, BundleError, MissingError
from purify_edge.errors import MissingError as NothingHereError
from purify_edge.images.arrays import as_batch
from purify_edge.machine import environment
from purify_export.networks import Networks
from purify_export.options import ExportOptions
from purify_export.runs import export_run
from purify_toolkit.runs.pretrained import open_run

Array = NDArray[np.float32]
Call = Callable[[Array], Array]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and write the page.

    Raises:
        MissingError: there is no GPU, or no engine runs on it.
        SystemExit: with 1, a limit of parity is broken.
    """
    options = _parser().parse_args(arguments)
    run = open_run(options.run)
    open_cuda()  # before the export, which takes a while
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundle, _ = export_run(run, Path(folder) / "bundle", ExportOptions(), tell=print_aside)
        sets, left_out = open_engines(bundle, stack)
        if not sets:
            reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
            raise NothingHereError(f"no engine runs on a GPU here, purify-doctor tells more; {reasons}")
        golden = load_golden(bundle)
        parity = [row for engines in sets for row in compare(engines, golden, bundle).rows]
        checks = list(checks_of(parity, [], Limits()))
        calls = dict(engine_calls(sets))
        if torch.cuda.is_available():
            calls |= torch_calls(Networks.load(run).defended, torch.device("cuda"), compiled=True)
        else:
            left_out["PyTorch"] = "sees no GPU"
        images = as_batch(some_images(golden["clean"], max(options.batches)), bundle.manifest.input)
        latency = measure(
            {
                Contestant(*name, batch): _bound(call, images[:batch])
                for batch in options.batches
                for name, call in calls.items()
            },
            rounds=options.rounds,
        )
        devices = {engines.engine: f"{engines.version} on {engines.device}" for engines in sets}
    text = page(devices, parity, latency, checks, left_out)
    if options.out:
        write_text(options.out, text)
    else:
        print(text, end="")
    if not all(check.passed for check in checks):
        raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--batches", type=_batches, default=(1, 8, 64))
    parser.add_argument("--rounds", type=positive, default=200)
    parser.add_argument("--out", type=Path)
    return parser


def _batches(text: str) -> tuple[int, ...]:
    return tuple(sorted({positive(part) for part in text.split(",")}))


def print_aside(text: str) -> None:
    """Print what is being done on standard error, apart from the page."""
    click.echo(f"  {text}", err=True)


def open_engines(bundle: Bundle, stack: ExitStack) -> tuple[list[EngineSet], dict[str, str]]:
    """Return the engines that run on a GPU here, in each precision, and why the others do not.

    Args:
        bundle: whose models they run.
        stack: closes them.
    """
    sets: list[EngineSet] = []
    left_out: dict[str, str] = {}
    for name in engines_on("gpu"):
        for precision in PRECISIONS:
            models = stack.enter_context(Models(bundle, Setup(name, precision, precision)))
            try:
                sets.append(EngineSet.of(models))
            except (MissingError, BuildError, BundleError) as error:
                left_out[f"{name} {precision}"] = str(error)
    return sets, left_out


def engine_calls(sets: Iterable[EngineSet]) -> Iterator[tuple[tuple[str, str, str], Call]]:
    """Return the calls by engine, precision and stage: both networks chained, and composed in one graph."""
    for engines in sets:
        for stage in ("pipeline", "defended"):
            yield (engines.engine, engines.precision, stage), engines.stages[stage]


def torch_calls(defended: nn.Module, device: torch.device, *, compiled: bool) -> dict[tuple[str, str, str], Call]:
    """Return PyTorch's contestants: eager, and compiled where asked for, each in float32 and float16.

    Args:
        defended: float32, in evaluation mode.
        device: where it is to run.
        compiled: with `torch.compile` too.
    """
    calls: dict[tuple[str, str, str], Call] = {}
    for precision, kind in (("fp32", torch.float32), ("fp16", torch.float16)):
        module = copy.deepcopy(defended).to(device, kind)
        calls["PyTorch", precision, "defended"] = _torch_call(module, device, kind)
        if compiled:
            calls["torch.compile", precision, "defended"] = _torch_call(torch.compile(module), device, kind)
    return calls


def _torch_call(module: Callable[[torch.Tensor], torch.Tensor], device: torch.device, kind: torch.dtype) -> Call:
    def call(x: Array) -> Array:
        with torch.inference_mode():
            logits: Array = module(torch.from_numpy(x).to(device, kind)).float().cpu().numpy()
        return logits

    return call


def _bound(call: Call, x: Array) -> Callable[[], object]:
    return lambda: call(x)


def page(
    devices: Mapping[str, str],
    parity: Sequence[ParityRow],
    latency: Sequence[LatencyRow],
    checks: Sequence[Check],
    left_out: Mapping[str, str],
) -> str:
    """Return the page: the machine, parity, latency, and who is left out and why."""
    machine = environment({"torch": torch.__version__})
    about = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {torch.__version__}"
    engines = "".join(f"- {name} {told}\n" for name, told in devices.items())
    absent = "".join(f"- {name}: {why}\n" for name, why in left_out.items())
    failed = [check for check in checks if not check.passed]
    broken = "".join(f"- **{check.name}: {check.value:.4g}, limit {check.limit:g}**\n" for check in failed)
    parts = [
        f"# Side by side on a GPU\n\n`lab/studies/gpu.py` on {about}:\n\n{engines}",
        f"## Parity with PyTorch\n\n{_parity_table(parity)}",
        f"Limits broken:\n\n{broken}" if broken else "",
        f"## Latency, ms\n\n{_latency_table(latency)}",
        f"## Left out\n\n{absent}" if absent else "",
    ]
    return "\n".join(part for part in parts if part)


def _parity_table(rows: Sequence[ParityRow]) -> str:
    header = ["engine", "precision", "model", "split", "n", "PyTorch", "engine", "agree", "largest difference"]
    cells = [
        [
            *(row.engine, row.precision, row.role, row.split, row.n),
            *map(_percent, (row.accuracy_reference, row.accuracy_engine, row.agreement)),
            f"{row.max_abs_diff:.2g}",
        ]
        for row in rows
    ]
    return markdown(header, cells)


def _latency_table(rows: Sequence[LatencyRow]) -> str:
    header = ["engine", "precision", "stage", "batch", "n", "p50", "p90", "p99", "images/s"]
    cells = [
        [
            *(row.engine, row.precision, row.stage, row.batch, row.n),
            *(f"{value:.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
            f"{row.images_per_s:,.0f}",
        ]
        for row in rows
    ]
    return markdown(header, cells)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}%"


if __name__ == "__main__":
    guarded(main)
