"""For maintainers: copy what ships of a finished run into the package.

Usage: python toolkit/ship_pretrained.py RUN NAME
"""

import argparse
import shutil
from pathlib import Path

import torch
from PIL import Image

from purify_toolkit.evaluation import attack
from purify_toolkit.pixels import to_8bit, to_float
from purify_toolkit.pretrained import FOLDER
from purify_toolkit.run_folder import RunFolder

FILES = (
    "run.json",
    "recipe.toml",
    "metrics.json",
    "metrics.jsonl",
    "classifier.safetensors",
    "student.safetensors",
    "samples.npz",
)


def main() -> None:
    """Copy the files and write an image a class, clean and adversarial, as PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    target = FOLDER / arguments.name
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copyfile(arguments.run / file, target / file)
    write_images(RunFolder(target), target / "images")


def write_images(run: RunFolder, folder: Path) -> None:
    """The first sample of each class, clean and attacked (the recipe's PGD on the classifier alone, 8 bits)."""
    samples, table, classifier = run.load_samples(), run.recipe.evaluation, run.load_classifier()
    first = torch.stack([(samples.labels == label).nonzero()[0, 0] for label in range(len(run.info["class_names"]))])
    images, labels = samples.images[first], samples.labels[first]
    adversarial = attack(classifier, to_float(images), labels, table, torch.Generator().manual_seed(run.info["seed"]))
    folder.mkdir(exist_ok=True)
    rounded = to_8bit(adversarial, clean=images, epsilon=table.epsilon)
    for kind, pixels in (("clean", images), ("adversarial", rounded)):
        for image, name in zip(pixels, run.info["class_names"], strict=True):
            slug = name.lower().replace("/", "-").replace(" ", "-")
            Image.fromarray(image.squeeze(0).numpy()).save(folder / f"{slug}-{kind}.png", optimize=True)


if __name__ == "__main__":
    main()
