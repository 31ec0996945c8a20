"""Measure purifiers of several sizes before one classifier: what they cost, what they save.

python -m lab.frontier.sizes RUN [RUN ...] --data DIR --out FOLDER [--limit N] [--rounds 30]

Each RUN is a run folder or the name of a pair that ships, all with the same classifier. Accuracies are of the test
images, clean and attacked once against the classifier alone by the first run's [evaluation]; operations are of one
image, forwards, a multiplication and an addition as two; times are of ONNX Runtime on the CPU, a batch of one image, a
round of all contestants after the other, as multiples of the classifier's in the same round. Writes sizes.json,
sizes.md and sizes.png.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lab.frontier.judged import THREATS, judged, shown
from lab.speed.by_hand import LIBRARIES
from lab.speed.rounds import Call, Row, measure
from lab.studies.common import guarded, markdown, positive, study_parser, write_results
from purify_edge.errors import InputError
from purify_edge.files import atomic, file_sha256
from purify_export.convert.onnx_from_torch import onnx_from_torch
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.evaluate.stats import Counted
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

CPU = torch.device("cpu")
ALONE = "classifier alone"
BUDGET_S = 120.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=positive, help="use only so many test images")
    parser.add_argument("--rounds", type=positive, default=30)
    options = parser.parse_args(arguments)
    runs = [open_run(name) for name in options.runs]
    if len({file_sha256(run.weights_path("classifier")) for run in runs}) > 1:
        raise InputError("the runs have different classifiers; expected purifiers for one and the same")
    purifiers: dict[str, nn.Module] = {_named(run): run.load_student() for run in runs}
    if len(purifiers) < len(runs):
        raise InputError("two of the runs have one recipe and one size; expected purifiers that differ in either")
    classifier, attack = runs[0].load_classifier(), PGD.of(runs[0].recipe.evaluation)
    test = load_data_of(runs[0], options.data, device="cpu").test[: options.limit]
    seen = shown(test, classifier, attack, options.out / "attacked.npy", CPU)
    times = _times(
        {ALONE: classifier, **purifiers}, runs[0], test[:1].images.permute(0, 2, 3, 1).numpy(), options.rounds
    )
    rows = [
        {"name": name, "epochs": epochs, "time": times[name].ratio, "time_quartiles": times[name].ratio_quartiles}
        | {"parameters": sum(weights.numel() for weights in network.parameters())}
        | {"flop": _flop(network, test.images[:1])}
        | {
            threat: Counted(n=len(of), correct=int(of.sum())).as_dict()
            for threat, of in judged(
                network if name == ALONE else nn.Sequential(network, classifier), seen, CPU
            ).items()
        }
        for (name, network), epochs in zip(
            {ALONE: classifier, **purifiers}.items(), (None, *(run.recipe.student.epochs for run in runs)), strict=True
        )
    ]
    results = {"dataset": runs[0].info["dataset"], "attack": str(attack), "n": len(test), "rows": rows}
    plot(rows, options.out / "sizes.png")
    write_results(options.out, "sizes", results, table(rows))
    print(table(rows), end="")


def _named(run: RunFolder) -> str:
    student = run.recipe.student
    return f"{run.info['recipe']}: width {student.width}, depth {student.depth}, blocks {student.blocks}"


def _flop(network: nn.Module, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images.float() / 255)
    return int(counter.get_total_flops())


def _times(networks: Mapping[str, nn.Module], run: RunFolder, image: Any, rounds: int) -> dict[str, Row]:
    """Return the time of each network by its name."""
    channels, height, width = run.info["image_shape"]
    calls: dict[str, Call] = {}
    for name, network in networks.items():
        graph = onnx_from_torch(network, image_shape=(channels, height, width), output="output")
        ((_, calls[name]),) = LIBRARIES["onnxruntime"]([graph.SerializeToString()])
    return {row.contestant: row for row in measure(calls, image, rounds=rounds, budget_s=BUDGET_S, reference=ALONE)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""

    def share(counted: dict[str, Any]) -> str:
        low, high = (100 * bound for bound in counted["ci95"])
        return f"{100 * counted['accuracy']:.1f} ({low:.1f} to {high:.1f})"

    lines = [
        [
            *(row["name"], row["epochs"] or "", f"{row['parameters'] / 1000:.0f}", f"{row['flop'] / 1e6:.1f}"),
            *(f"{row['time']:.2f}", *(share(row[threat]) for threat in THREATS)),
        ]
        for row in rows
    ]
    header = ["network", "epochs", "parameters, thousands", "MFLOP", "time, x classifier", *THREATS]
    return markdown(header, lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw both accuracies against operations and against time; the classifier's own as lines."""
    alone, *purifiers = rows
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for panel, key, label in zip(
        figure.subplots(1, 2),
        ("flop", "time"),
        ("operations of an image, MFLOP", "time, x the classifier's"),
        strict=True,
    ):
        scale = 1e6 if key == "flop" else 1
        for threat, colour in zip(THREATS, ("tab:blue", "tab:red"), strict=True):
            points = sorted((row[key] / scale, row[threat]) for row in purifiers)
            x, of = [at for at, _ in points], [counted for _, counted in points]
            y = [100 * counted["accuracy"] for counted in of]
            bounds = [[100 * abs(counted["ci95"][end] - counted["accuracy"]) for counted in of] for end in (0, 1)]
            panel.errorbar(x, y, yerr=bounds, marker="o", capsize=3, color=colour, label=f"{threat}, purified")
        panel.axhline(100 * alone["clean"]["accuracy"], color="grey", linestyle=":", label="clean, classifier alone")
        panel.axvline(alone[key] / scale, color="grey", linestyle="--", label="the classifier's own cost")
        panel.set(xlabel=label, ylabel="accuracy, %")
        if key == "flop":
            panel.set_xscale("log")
            panel.set_xticks(x, [f"{at:.3g}" for at in x])
            panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    guarded(main)
