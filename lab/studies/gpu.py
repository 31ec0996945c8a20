"""Time every engine that runs on a GPU beside PyTorch, eager and compiled.

python -m lab.studies.gpu [RUN] [--batches 1,8,64] [--rounds 200] [--out docs/results/gpu.md]

RUN is a run folder, or the name of a pair that ships. It is exported in float32 and float16; each engine on the GPU is
compared with PyTorch's answers in the golden set. Then all take turns, round by round, in one process: from float32
images in the host's memory to logits there. Prints Markdown, or writes it to --out. Exit code 1 where an engine breaks
a limit of parity, 3 where there is no GPU.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from sys import stderr

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lab.studies.common import guarded, numbers, positive, study_parser
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import Precision
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import NotChecked, Report
from purify_edge.check.check import some_images
from purify_edge.check.comparison import EngineSet, compare
from purify_edge.check.limits import Limits, checks_of
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.content import document_of
from purify_edge.document.markdown import render_markdown
from purify_edge.engines.latency import Contestant, measure
from purify_edge.engines.models import Models, Setup
from purify_edge.engines.registry import engines_on
from purify_edge.engines.tensorrt.cudart import open_cuda
from purify_edge.errors import BuildError, BundleError, MissingError
from purify_edge.files import atomic
from purify_edge.images.arrays import as_batch
from purify_edge.machine import environment
from purify_export.networks import Networks
from purify_export.runs import export_run
from purify_toolkit.runs.pretrained import open_run

Array = NDArray[np.float32]
Call = Callable[[Array], Array]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and write the page; see above for the exit code."""
    parser = study_parser(__doc__)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--batches", type=partial(numbers, least=1), default="1,8,64")
    parser.add_argument("--rounds", type=positive, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    run = open_run(options.run)
    open_cuda()  # before the export, which takes a while
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundle, _ = export_run(run, Path(folder) / "bundle", tell=lambda text: print(text, file=stderr))
        sets, left_out = open_engines(bundle, stack)
        if not sets:
            reasons = "; ".join(f"{left.engine} {left.precision}: {left.reason}" for left in left_out)
            raise MissingError(f"no engine runs on a GPU here, purify-doctor tells more; {reasons}")
        calls = {
            (engines.engine, engines.precision, stage): engines.stages[stage]
            for engines in sets
            for stage in ("pipeline", "defended")  # both networks chained, and composed in one graph
        }
        if torch.cuda.is_available():
            calls |= torch_calls(Networks.load(run).defended, torch.device("cuda"), compiled=True)
        else:
            left_out.append(NotChecked(engine="PyTorch", precision="", reason="sees no GPU"))
        report = report_of(bundle, sets, calls, left_out, options.batches, options.rounds)
    page = render_markdown(document_of(report, CheckedBundle(bundle.manifest)))
    if options.out:
        with atomic(options.out) as temporary:
            temporary.write_text(page)
    else:
        print(page, end="")
    if not report.passed:
        raise SystemExit(1)


def report_of(
    bundle: Bundle,
    sets: Sequence[EngineSet],
    calls: Mapping[tuple[str, str, str], Call],
    left_out: Sequence[NotChecked],
    batches: Sequence[int],
    rounds: int,
) -> Report:
    """Return the parity of the engines with the golden set, and the latency of all calls, batch by batch."""
    golden = load_golden(bundle)
    parity = [row for engines in sets for row in compare(engines, golden, bundle).rows]
    checks = tuple(checks_of(parity, [], Limits()))
    images = as_batch(some_images(golden["clean"], max(batches)), bundle.manifest.input)
    timed = {
        Contestant(*name, batch): partial(call, images[:batch]) for batch in batches for name, call in calls.items()
    }
    versions = {engines.engine: engines.version for engines in sets}
    about = environment({"torch": torch.__version__} | versions)
    return Report(
        environment=about | {"devices": {engines.engine: engines.device for engines in sets}},
        parity=tuple(parity),
        latency=tuple(measure(timed, rounds=rounds)),
        checks=checks,
        passed=all(check.passed for check in checks),
        not_checked=tuple(left_out),
    )


def open_engines(bundle: Bundle, stack: ExitStack) -> tuple[list[EngineSet], list[NotChecked]]:
    """Return the engines that run on a GPU here, in each precision, and why the others do not; `stack` closes them."""
    sets: list[EngineSet] = []
    left_out: list[NotChecked] = []
    for name in engines_on("gpu"):
        for precision in PRECISIONS:
            models = stack.enter_context(Models(bundle, Setup(name, precision, precision)))
            try:
                sets.append(EngineSet.of(models))
            except (MissingError, BuildError, BundleError) as error:
                left_out.append(NotChecked(engine=name, precision=precision, reason=str(error)))
    return sets, left_out


def torch_calls(defended: nn.Module, device: torch.device, *, compiled: bool) -> dict[tuple[str, str, str], Call]:
    """Return PyTorch's contestants: eager, and compiled if requested, each in float32 and float16."""
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


if __name__ == "__main__":
    guarded(main)
