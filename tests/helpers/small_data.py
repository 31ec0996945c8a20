"""Fashion-MNIST in small: the shipped test images as IDX files, which the loader then takes for the original.

Run as a program it is purify-train or purify-eval on such a folder: python small_data.py train|eval FOLDER [arguments].
"""

import hashlib
import struct
import sys
from pathlib import Path

import numpy as np

from purify_toolkit.data import idx
from purify_toolkit.runs.pretrained import open_run

TRAIN, TEST = 500, 200  # of the 1,000
VALIDATION = 100

RECIPE = f"""
dataset = "fashion-mnist"
validation_size = {VALIDATION}

[classifier]
width = 8
blocks = 1
epochs = 3
batch_size = 64
learning_rate = 1e-2
weight_decay = 1e-2

[teacher]
width = 4
depth = 2
blocks = 0
epochs = 2
batch_size = 64
learning_rate = 3e-3
weight_decay = 1e-4

[student]
width = 4
depth = 2
blocks = 1
epochs = 3
batch_size = 64
learning_rate = 3e-3
weight_decay = 1e-4

[distillation]
adversarial_teacher_weight = 0.5
reconstruction = 1.0
imitation = 1.0
classifier_guidance = 0.5
adversarial_fraction = 0.5

[attack]
epsilon_min = 0.01
epsilon_max = 0.13
steps = 2
relative_step = 0.5
refresh_epochs = 2

[evaluation]
epsilon = 0.1
steps = 4
relative_step = 0.5
"""

ADAPTIVE = (
    RECIPE
    + """
[adaptive]
epsilon = 0.1
steps = 2
relative_step = 0.5
labels = 1.0
"""
)
"""The same with a student that is trained against white-box attacks."""


def write_idx(folder: Path, *, train: int = TRAIN) -> None:
    """Write the four IDX files, with so many training images."""
    samples = open_run(None).load_samples()
    images, labels = samples.images.numpy(), samples.labels.numpy()
    for part, chosen in (("train", slice(None, train)), ("t10k", slice(train, train + TEST))):
        pixels, classes = images[chosen, 0], labels[chosen].astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 2051, len(pixels), 28, 28) + pixels.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, len(classes)) + classes.tobytes())


def accept(folder: Path) -> dict[str, str]:
    """The checksums of a folder's files, for `idx.SHA256`."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in idx.SHA256["FashionMNIST"]}


if __name__ == "__main__":
    from purify_toolkit.evaluate.cli import main as evaluate
    from purify_toolkit.train.cli import main as train

    command, folder, *arguments = sys.argv[1:]
    idx.SHA256["FashionMNIST"] = accept(Path(folder))
    {"train": train, "eval": evaluate}[command]([*arguments, "--data", folder])
