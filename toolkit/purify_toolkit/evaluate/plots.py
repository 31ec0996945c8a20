"""Pictures of a run and of its evaluation: loss curves, accuracy curves, grids of attacked and purified images."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from purify_edge.files import atomic
from purify_edge.stats import wilson
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.pixels import to_float
from purify_toolkit.data.splits import Split

matplotlib.use("agg")


def save_loss_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each stage: training losses on the left axis, validation accuracies on the right."""
    stages = list(dict.fromkeys(line["stage"] for line in metrics))
    figure = Figure(figsize=(4.4 * len(stages), 4), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        lines = [line for line in metrics if line["stage"] == stage]
        epochs = [line["epoch"] + 1 for line in lines]
        for name in lines[0]["losses"]:
            axes.plot(epochs, [line["losses"][name] for line in lines], label=name)
        axes.set(title=stage.replace("_", " "), xlabel="epoch", ylabel="training loss", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        right = axes.twinx()
        accuracies = [name for name in lines[0]["validation"] if name.startswith("accuracy")]
        for name, style in zip(accuracies, ("--", ":"), strict=False):
            values = [100 * line["validation"][name] for line in lines]
            right.plot(epochs, values, style, color="black", label=f"validation {name.removeprefix('accuracy_')}")
        right.set(ylabel="validation accuracy, %", ylim=(None, 100))
        handles = axes.get_legend_handles_labels()[0] + right.get_legend_handles_labels()[0]
        labels = [str(handle.get_label()) for handle in handles]
        axes.legend(handles, labels, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    _save(figure, path)


def save_grid(
    classifier: nn.Module,
    purifier: nn.Module,
    examples: Split,
    class_names: tuple[str, ...],
    attack: PGD,
    path: Path,
) -> None:
    """Draw a row for each image: clean, adversarial (grey-box), purified, and what the purifier took away.

    Under each image stands the classifier's answer, red where it is wrong. Networks on the CPU.
    """
    clean = to_float(examples.images)
    adversarial = attack(classifier, clean, examples.labels, generator=torch.Generator(clean.device).manual_seed(0))
    with torch.no_grad():
        purified = purifier(adversarial)
    shown = {"clean": clean, "adversarial": adversarial, "purified": purified}
    words = _words(classifier, shown)
    shown[f"taken away (±{attack.epsilon:g})"] = (0.5 + (adversarial - purified) / (2 * attack.epsilon)).clamp(0, 1)
    _draw_grid(shown, words, examples.labels, class_names, f"{attack}, against the classifier alone", path)


def save_accuracy_curves(lines: dict[str, dict[float, tuple[int, int]]], path: Path) -> None:
    """Draw accuracy against the attack's size, with 95% intervals: a line for each model; size -> images right, images.

    The sizes stand side by side, not to scale: they span two orders of magnitude and begin at 0.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for (name, points), marker in zip(lines.items(), "osD", strict=False):
        sizes = sorted(points)
        accuracy = np.array([points[size][0] / points[size][1] for size in sizes])
        low, high = np.array([wilson(*points[size]) for size in sizes]).T
        errors = np.clip([accuracy - low, high - accuracy], 0, None)
        axes.errorbar(
            range(len(sizes)), 100 * accuracy, 100 * errors, marker=marker, markersize=4, capsize=2, label=name
        )
    n = next(iter(next(iter(lines.values())).values()))[1]
    axes.set(xlabel="size of the attack, Linf, pixels in [0, 1]", ylabel=f"accuracy, % of {n} images", ylim=(-2, 102))
    axes.set_xticks(range(len(sizes)), [f"{size:.3g}" for size in sizes])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    _save(figure, path)


def save_threat_grid(
    classifier: nn.Module,
    purifier: nn.Module,
    examples: dict[str, tuple[Tensor, Tensor, Tensor]],
    class_names: tuple[str, ...],
    path: Path,
    *,
    rows: int = 8,
) -> None:
    """Draw a row for each image: clean, then for each threat the attacked image and what becomes of it.

    Under each image stands the classifier's answer, red where it is wrong. `examples` has for each threat the same
    clean images, uint8, attacked ones, float32, and labels; the first `rows` are shown.
    """
    clean, _, labels = (part[:rows] for part in next(iter(examples.values())))
    device = next(classifier.parameters()).device
    columns = {"clean": to_float(clean, device)}
    with torch.no_grad():
        for threat, (_, attacked, _) in examples.items():
            short = threat.partition(",")[0]
            columns[short] = attacked[:rows].to(device)
            columns[f"{short}, purified"] = purifier(columns[short])
    _draw_grid(columns, _words(classifier, columns), labels, class_names, "\n".join(examples), path)


@torch.no_grad()
def _words(classifier: nn.Module, columns: dict[str, Tensor]) -> dict[str, list[int]]:
    return {title: classifier(images).argmax(1).tolist() for title, images in columns.items()}


def _draw_grid(
    columns: dict[str, Tensor],
    words: dict[str, list[int]],
    labels: Tensor,
    class_names: tuple[str, ...],
    heading: str,
    path: Path,
) -> None:
    """Draw a row for each image, and under each the class named for it, where there is one."""
    height = 1.55 * len(labels) + 0.5 + 0.2 * heading.count("\n")
    figure = Figure(figsize=(1.6 * len(columns), height), layout="constrained")
    figure.suptitle(heading, fontsize=8)
    grid = figure.subplots(len(labels), len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        grid[0][column].set_title(title, fontsize=9)
        for row, label in enumerate(labels.tolist()):
            axes, image = grid[row][column], images[row].permute(1, 2, 0).cpu().numpy()
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if title in words:
                word = words[title][row]
                colour = "black" if word == label else "crimson"
                axes.set_xlabel(class_names[word], fontsize=8, color=colour, parse_math=False)  # a $ is a $
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
