"""Time the training of teachers and student beside a plain loop, in images a second.

python -m lab.studies.training_speed RUN --data DIR [--images 768] [--rounds 4] [--out FILE.json]

RUN, a run folder or the name of a pair that ships, gives recipe and classifier. The plain loop is what one would write
first: a DataLoader with its defaults over 8-bit images that become float tensors one by one, float32, contiguous
[N, C, H, W], the recipe's attack anew for each batch. Networks, batch size, losses and optimizer are the same.

Both train whole epochs on so many images, turn by turn in one process. The product trains two in a row: the first, in
which the adversarial teacher attacks every image and nothing is remembered of what frozen networks make of an image,
counts once in the recipe's epochs of a stage, and the second stands for all others. Neither validates.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from lab.studies.common import begin, changed, guarded, markdown, positive, study_parser
from lab.studies.plain_loop import TEACHERS, PlainLoop, table_of
from purify_edge.errors import InputError
from purify_edge.files import write_json
from purify_edge.machine import processor
from purify_edge.shell.stages import RichProgress, StageProgress
from purify_toolkit.data.splits import ImageData
from purify_toolkit.device.choice import choose_device
from purify_toolkit.device.precision import precision_on
from purify_toolkit.device.processes import Processes
from purify_toolkit.device.provenance import provenance
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.request import Request
from purify_toolkit.train.stages import Stages
from purify_toolkit.train.trainer import Trainer

STAGES = (*TEACHERS, "student")

Seconds = dict[str, float]
"""Of an epoch: the "later" ones, and of the product the "first"."""

Round = dict[str, dict[str, Seconds]]
"""By stage, and by contestant: "product" or "plain"."""


@dataclass(frozen=True)
class TrainingBench:
    """What both contestants train with."""

    run: RunFolder
    data: ImageData
    seed: int
    device: torch.device
    progress: StageProgress

    def images(self, stage: str) -> int:
        """Return how many images an epoch trains on; it leaves out a last, smaller batch."""
        count, batch = len(self.data.train), table_of(self.run.recipe, stage).batch_size
        return count // batch * batch


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the rounds and print the table."""
    parser = study_parser(__doc__)
    parser.add_argument("run", help="a run folder, or the name of a pair that ships")
    parser.add_argument("--data", type=Path, help="folder that holds the run's dataset")
    parser.add_argument("--images", type=positive, default=768, help="of an epoch; default 768")
    parser.add_argument("--rounds", type=positive, default=4, help="beside a first one that does not count; default 4")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    options = parser.parse_args(arguments)
    source = open_run(options.run)
    if len(source.recipe.teachers) < 2:
        raise InputError("the run's recipe has no two teachers; give the run of another one")
    if source.recipe.adaptive is not None:
        raise InputError("the run is adaptive: its student is attacked anew at each step here and there; give another")
    data, device = load_data_of(source, options.data).limited(options.images), choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder, RichProgress() as progress:
        run = workplace(Path(folder) / "run", source, data, options.seed)
        bench = TrainingBench(run, data, options.seed, device, progress)
        if not all(bench.images(stage) for stage in STAGES):
            raise InputError(f"{len(data.train)} images are less than a batch; --images takes more")
        rounds = [one_round(bench) for _ in range(options.rounds + 1)][1:]  # the first is the warm-up
    results = summary(bench, rounds)
    if options.out is not None:
        write_json(options.out, results | {"machine": machine(device), "written_with": provenance()})
    print(table(results, machine(device)), end="")


def workplace(folder: Path, source: RunFolder, data: ImageData, seed: int) -> RunFolder:
    """Return a run to train in, with the source's recipe and classifier."""
    request = Request(
        recipe_name=source.info["recipe"],
        recipe_text=changed(source.recipe, {}),
        out=folder,
        seed=seed,
        limit=len(data.train),
        base=source,
    )
    run = begin(request, data)
    run.save_weights("classifier", source.load_classifier())
    return run


def one_round(bench: TrainingBench) -> Round:
    """Return the seconds of an epoch of each stage: the product's first and later ones, and the plain loop's."""
    found = {}
    for stage in STAGES:
        if stage == "adversarial_teacher":
            bench.run.checkpoint_path("examples").unlink(missing_ok=True)  # so that the pool begins anew
        product = product_epochs(bench, stage)
        found[stage] = {"product": product, "plain": {"later": plain_epoch(bench, stage)}}
    return found


def product_epochs(bench: TrainingBench, name: str) -> Seconds:
    """Return the seconds of two epochs of a stage by the product's trainer, with all its files, without validation."""
    processes = Processes(bench.device)
    stage = Stages(bench.run, bench.data, processes=processes).build(name)
    ended: list[float] = []

    def validate() -> dict[str, float]:
        ended.append(_now(bench.device))
        return {}

    twice = replace(stage, optimizer=msgspec.structs.replace(stage.optimizer, epochs=2), validate=validate)
    count = len(bench.data.train)
    trainer = Trainer(twice, bench.run, count=count, seed=bench.seed, processes=processes, progress=bench.progress)
    start = _now(bench.device)
    trainer.train()
    return {"first": ended[0] - start, "later": _now(bench.device) - ended[0]}


def plain_epoch(bench: TrainingBench, name: str) -> float:
    """Return the seconds that the plain loop takes for one."""
    loop = PlainLoop(bench.run, name, device=bench.device, seed=bench.seed)
    loader = loop.loader(bench.data.train)
    bench.progress.epoch(f"plain {name}", 0, 1, bench.images(name))
    start = _now(bench.device)
    loop.epoch(loader, lambda done: bench.progress.advance(done, ""))
    return _now(bench.device) - start


def _now(device: torch.device) -> float:
    """Return the time in seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def whole(seconds: Seconds, epochs: int) -> float:
    """Return the seconds of a stage's epochs, of which the first may take longer.

    >>> whole({"first": 5.0, "later": 2.0}, 4)
    11.0
    """
    return seconds.get("first", seconds["later"]) + (epochs - 1) * seconds["later"]


def summary(bench: TrainingBench, rounds: list[Round]) -> dict[str, Any]:
    """Return the median images a second of each stage and of all three, and the median of the rounds' ratios."""
    epochs = {stage: table_of(bench.run.recipe, stage).length(len(bench.data.train))[0] for stage in STAGES}
    images = {stage: bench.images(stage) for stage in STAGES}
    groups = {**{stage: [stage] for stage in STAGES}, "together": list(STAGES)}
    return {
        "recipe": bench.run.info["recipe"],
        "precision": precision_on(bench.device, bench.run.recipe.precision),
        "images": images,
        "epochs": epochs,
        "rounds": rounds,
        "stages": {name: rates(rounds, stages, epochs, images) for name, stages in groups.items()},
    }


def rates(rounds: list[Round], stages: list[str], epochs: dict[str, int], images: dict[str, int]) -> dict[str, Any]:
    """Return the images a second over some stages, each with its epochs of the recipe, and the ratio of the two."""
    seen = sum(images[stage] * epochs[stage] for stage in stages)
    found = {
        who: [seen / sum(whole(one[stage][who], epochs[stage]) for stage in stages) for one in rounds]
        for who in ("product", "plain")
    }
    ratios = [product / plain for product, plain in zip(found["product"], found["plain"], strict=True)]
    medians = {f"{who}_images_per_s": statistics.median(values) for who, values in found.items()}
    return medians | {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the machine is."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    about = {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return about | {"device": str(device), "gpu": gpu}


def table(results: dict[str, Any], where: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = [
        [
            name.replace("_", " "),
            f"{stage['product_images_per_s']:.0f}",
            f"{stage['plain_images_per_s']:.0f}",
            f"{stage['ratio']:.2f} ({stage['ratio_min']:.2f} to {stage['ratio_max']:.2f})",
        ]
        for name, stage in results["stages"].items()
    ]
    place = where["gpu"] or f"{where['processor']}, {where['cores']} cores, {where['threads']} threads"
    recipe = f"{results['recipe']} ({results['precision']}; the plain loop float32)"
    images = " and ".join(sorted({str(count) for count in results["images"].values()}))
    about = f"Recipe {recipe}, {images} images an epoch, {len(results['rounds'])} rounds, {place}."
    header = ["stage", "product, images/s", "plain loop, images/s", "median ratio of the rounds (range)"]
    return f"{about}\n\n{markdown(header, rows)}"


if __name__ == "__main__":
    guarded(main)
