"""How much of the engine's speed is left in purify-run: a folder of images by the command, and the same in memory."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import some_images
from purify_edge.engines.base import BATCH
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.run.job import Job
from purify_edge.run.runner import Run
from purify_edge.shell.command import Command


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--images", default=10_000, show_default=True, help="In the folder.")
@click.option("--side", type=int, help="Height and width of the files; default the bundle's own.")
@click.option("--format", "suffix", default="png", show_default=True, type=click.Choice(["png", "jpg"]))
@click.option("--rounds", default=3, show_default=True, help="Of both contestants, interleaved.")
@click.option("--save", is_flag=True, help="Let purify-run save the purified images and a file of results, too.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the images are, or are made; default: nowhere.")
def main(
    bundle: Path, images: int, side: int | None, suffix: str, rounds: int, save: bool, folder: Path | None
) -> None:
    """Print, as JSON, images a second of the engine on images in memory and of purify-run on files, and their ratio.

    Both purify, classify, and classify the unpurified image too. The ratio is the median over rounds.
    """
    with tempfile.TemporaryDirectory() as scratch, Pipeline.load(bundle) as pipeline:
        pixels = some_images(load_golden(Bundle.open(bundle))["clean"], images)
        source = folder or Path(scratch) / "images"
        if not source.exists():
            _write(pixels, source, suffix, side)
        engine_s, run_s = [], []
        for number in range(rounds):
            engine_s.append(_engine(pipeline, pixels))
            run_s.append(_run(bundle, source, Path(scratch) / str(number), images, save=save))
        command_s = _command(bundle, source)
    print(
        json.dumps(
            {
                "images": images,
                "files": f"{suffix}, {side or pixels.shape[1]} x {side or pixels.shape[2]}",
                "saving": save,
                "rounds": rounds,
                "engine_images_per_s": round(images / statistics.median(engine_s), 1),
                "run_images_per_s": round(images / statistics.median(run_s), 1),
                "ratio": round(statistics.median(e / r for e, r in zip(engine_s, run_s, strict=True)), 3),
                "command_seconds": round(command_s, 2),
            },
            indent=2,
        )
    )


def _write(pixels: NDArray[np.uint8], folder: Path, suffix: str, side: int | None) -> None:
    for number, image in enumerate(pixels):
        file = folder / f"{number // 1000:03d}" / f"{number:06d}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        (picture.resize((side, side)) if side else picture).save(file)


def _engine(pipeline: Pipeline, pixels: NDArray[np.uint8]) -> float:
    begin = time.perf_counter()
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start : start + BATCH]
        if pipeline.predict(batch).unpurified is None:
            pipeline.classify(batch)
    return time.perf_counter() - begin


def _run(bundle: Path, source: Path, outputs: Path, images: int, *, save: bool) -> float:
    """Seconds from the first image requested to the last result, without loading the models."""
    job = Job(
        bundle=bundle,
        inputs=(str(source),),
        engine="auto",
        precision="fp32",
        verify=None,
        policy=EnginePolicy(),
        save=outputs / "purified" if save else None,
        out=outputs / "results.jsonl" if save else None,
    )
    with Run(job) as run:
        begin = time.perf_counter()
        done = sum(len(results) for results in run.results())
        seconds = time.perf_counter() - begin
    if done != images:
        raise SystemExit(f"{source} holds {done} images, not {images}")
    return seconds


def _command(bundle: Path, source: Path) -> float:
    """Seconds of the whole command, with Python's start and loading the models."""
    command = [str(Path(sys.executable).with_name("purify-run")), str(bundle), str(source), "--json"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
