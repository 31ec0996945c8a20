"""Time images of 224 x 224: a purifier before MobileNetV3-small, both with random weights, which do for speed.

Usage: python -m lab.studies.large_pair_speed [--json]
"""

from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from lab.speed.document import document_of
from lab.speed.pytorch import calls_of
from lab.speed.rows import encode_bench
from lab.speed.run import bench
from purify_edge.bundle.golden import GoldenSplit, encode_golden
from purify_edge.bundle.manifest import SCHEMA_VERSION, GoldenEntry, InputContract, Manifest, ModelEntry, Role
from purify_edge.bundle.writer import BundleWriter
from purify_edge.document.terminal import print_document
from purify_export.convert.flop import flop
from purify_export.convert.graphs import composed
from purify_export.convert.onnx_from_torch import onnx_from_torch
from purify_toolkit.networks.architectures import Purifier

CLASSES = 10
BATCHES = (1, 8, 64)


def pair(size: int) -> tuple[nn.Module, nn.Module]:
    """Return purifier and classifier for images `[N, 3, size, size]`."""
    torch.manual_seed(0)
    purifier = Purifier(3, width=8, depth=3, blocks=1)
    return purifier.eval(), mobilenet_v3_small(weights=None, num_classes=CLASSES).eval()


def write_bundle(path: Path, purifier: nn.Module, classifier: nn.Module, size: int) -> None:
    """Write a bundle of the two in float32, with a golden set of noise."""
    shape = (3, size, size)
    with BundleWriter(path, force=False) as writer:
        graphs: dict[Role, bytes] = {}
        halves = [
            onnx_from_torch(module, image_shape=shape, output=output)
            for module, output in ((purifier, "purified"), (classifier, "logits"))
        ]
        models = []
        for role, model in zip(("purifier", "classifier", "defended"), (*halves, composed(*halves)), strict=True):
            graphs[role] = model.SerializeToString(deterministic=True)  # type: ignore[index]
            file = writer.add(f"models/{role}.fp32.onnx", graphs[role])  # type: ignore[index]
            models.append(ModelEntry(role=role, precision="fp32", file=file, flop=flop(model)))  # type: ignore[arg-type]
        golden = encode_golden({"clean": _golden(purifier, classifier, size)})
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=f"mobilenet-v3-small, {size} x {size}, random weights",
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer={"purify-edge": version("purify-edge")},
            input=InputContract(channels=3, height=size, width=size),
            class_names=tuple(f"class {index}" for index in range(CLASSES)),
            models=tuple(models),
            golden=GoldenEntry(file=writer.add("golden.npz", golden), splits={"clean": 2}, attack="none"),
            provenance={},
        )
        writer.finish(manifest)


def _golden(purifier: nn.Module, classifier: nn.Module, size: int) -> GoldenSplit:
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        purified = purifier(x)
        alone, defended = classifier(x), classifier(purified)
    return GoldenSplit(images, defended.argmax(1).numpy(), purified.numpy(), alone.numpy(), defended.numpy())


@click.command()
@click.option("--size", default=224, show_default=True, type=click.IntRange(min=32), help="Height and width.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), help="Default 1, 8 and 64.")
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(min=3), help="At most, for each batch.")
@click.option("--budget", "budget_s", default=30.0, show_default=True, metavar="SECONDS", help="For each batch.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(size: int, batches: tuple[int, ...], rounds: int, budget_s: float, as_json: bool) -> None:
    """Time a purifier before MobileNetV3-small, as `python -m lab.speed` does."""
    purifier, classifier = pair(size)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        write_bundle(path, purifier, classifier, size)
        found = bench(
            path,
            batches=batches or BATCHES,
            rounds=rounds,
            budget_s=budget_s,
            added=calls_of(nn.Sequential(purifier, classifier).eval()),
            tell=lambda text: click.echo(f"  {text}", err=True),
        )
    if as_json:
        click.echo(encode_bench(found), nl=False)
    else:
        print_document(document_of(found))


if __name__ == "__main__":
    main()
