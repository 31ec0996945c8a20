"""Copy what ships of a finished run into the package.

Usage: python -m lab.ship_pretrained RUN NAME [--half] [--without-images] [--without-classifier] [--data DIR]
"""

import argparse
import shutil
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from purify_edge.files import write_json
from purify_edge.shell.stages import RichProgress
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.pixels import to_8bit, to_float
from purify_toolkit.device.choice import choose_device
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import FOLDER
from purify_toolkit.train.train import evaluate_run, metrics

FILES = ("run.json", "recipe.toml", "metrics.jsonl")
WEIGHTS = ("classifier.safetensors", "student.safetensors")
SAMPLES = "samples.npz"


def main() -> None:
    """Copy the files; write a clean and an adversarial PNG of each class where the images may be passed on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--half", action="store_true", help="store float16 and evaluate what the weights became")
    parser.add_argument("--without-images", action="store_true", help="the licence of the images forbids it")
    parser.add_argument("--without-classifier", action="store_true", help="ship a purifier to begin from, no pair")
    parser.add_argument("--data", type=Path, help="with --half: the run's dataset")
    arguments = parser.parse_args()
    target = FOLDER / arguments.name
    target.mkdir(parents=True, exist_ok=True)
    for file in (*FILES, *WEIGHTS):
        shutil.copyfile(arguments.run / file, target / file)
    if arguments.half:  # its own metrics.json is about other weights and is not needed
        for file in WEIGHTS[1:] if arguments.without_classifier else WEIGHTS:
            halve(target / file)
        share_classifier(RunFolder(target))
        evaluate_again(RunFolder(target), arguments.data)
    else:
        share_classifier(RunFolder(target))
        shutil.copyfile(arguments.run / "metrics.json", target / "metrics.json")
    if arguments.without_classifier:
        RunFolder(target).weights_path("classifier").unlink()
    if not arguments.without_images:
        shutil.copyfile(arguments.run / SAMPLES, target / SAMPLES)
        write_images(RunFolder(target), target / "images")


def share_classifier(run: RunFolder) -> None:
    """Leave out the classifier's file where the pair that the run was trained for has the same one."""
    base = (run.info.get("base") or {}).get("run")
    own, other = run.weights_path("classifier"), FOLDER / str(base) / "classifier.safetensors"
    if other != own and other.is_file() and other.read_bytes() == own.read_bytes():
        own.unlink()
        write_json(run.path / "run.json", run.info | {"classifier_of": base})


def halve(path: Path) -> None:
    """Store a file's matrices and kernels as float16, but no vectors, which may hold tiny variances."""
    save_file({name: value.half() if value.ndim > 1 else value for name, value in load_file(path).items()}, path)


def evaluate_again(run: RunFolder, data: Path | None) -> None:
    """Write the metrics.json of the weights that are in the folder now."""
    device, test = choose_device("auto"), load_data_of(run, data).test
    with RichProgress() as progress:
        rows = evaluate_run(run, test, seed=run.info["seed"], device=device, progress=progress)
    write_json(run.path / "metrics.json", metrics(run, rows, device))


def write_images(run: RunFolder, folder: Path) -> None:
    """Return the first sample of each class, clean and attacked: 8 bits, the recipe's PGD on the classifier alone."""
    samples, table, classifier = run.load_samples(), run.recipe.evaluation, run.load_classifier()
    first = torch.stack([(samples.labels == label).nonzero()[0, 0] for label in range(len(run.info["class_names"]))])
    images, labels = samples.images[first], samples.labels[first]
    generator = torch.Generator().manual_seed(run.info["seed"])
    adversarial = PGD.of(table)(classifier, to_float(images), labels, generator=generator)
    folder.mkdir(exist_ok=True)
    rounded = to_8bit(adversarial, clean=images, epsilon=table.epsilon)
    for kind, pixels in (("clean", images), ("adversarial", rounded)):
        for image, name in zip(pixels, run.info["class_names"], strict=True):
            slug = name.lower().replace("/", "-").replace(" ", "-")
            Image.fromarray(image.squeeze(0).numpy()).save(folder / f"{slug}-{kind}.png", optimize=True)


if __name__ == "__main__":
    main()
