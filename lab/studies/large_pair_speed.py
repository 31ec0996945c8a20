"""Time images of 224 x 224: a purifier before MobileNetV3-small, both with random weights, which do for speed.

Usage: python -m lab.studies.large_pair_speed [--json]
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from lab.speed.__main__ import show, tell, timing_options
from lab.speed.pytorch import calls_of
from lab.speed.run import bench
from purify_edge.shell.command import Command
from purify_export.export import export
from purify_toolkit.networks.architectures import Purifier

CLASSES = 10


def pair(size: int) -> tuple[nn.Module, nn.Module]:
    """Return purifier and classifier for images `[N, 3, size, size]`."""
    torch.manual_seed(0)
    purifier = Purifier(3, width=8, depth=3, blocks=1)
    return purifier.eval(), mobilenet_v3_small(weights=None, num_classes=CLASSES).eval()


def write_bundle(path: Path, purifier: nn.Module, classifier: nn.Module, size: int) -> None:
    """Write a bundle of the two in float32; its golden set is noise, and its labels are their answers."""
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    with torch.inference_mode():
        labels = classifier(purifier(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)).argmax(1).numpy()
    name = f"mobilenet-v3-small, {size} x {size}, random weights"
    export(purifier, classifier, images, labels, out=path, fp16=False, targets=["onnx"], rounds=0, name=name)


@click.command(cls=Command)
@click.option("--size", default=224, show_default=True, type=click.IntRange(min=32), help="Height and width.")
@timing_options("1, 8 and 64", budget_s=30.0)
def main(size: int, batches: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Time a purifier before MobileNetV3-small, as `python -m lab.speed` does."""
    purifier, classifier = pair(size)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        write_bundle(path, purifier, classifier, size)
        calls = calls_of(nn.Sequential(purifier, classifier).eval())
        show(bench(path, batches=batches or (1, 8, 64), added=calls, tell=tell, **options), as_json)


if __name__ == "__main__":
    main()
