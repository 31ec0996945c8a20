"""Write a network of Keras on TensorFlow, and what it answers: python of_tensorflow.py FOLDER.

For an environment of its own, with tensorflow-cpu and tf2onnx; `make test-graphs` makes it.
"""

import sys
from importlib import import_module
from math import prod
from pathlib import Path

import numpy as np


def write(folder: Path) -> None:
    keras = import_module("keras")
    network = keras.applications.MobileNetV2((64, 64, 3), 0.35, weights=None, classes=4)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 64, 64, 3), np.uint8)
    for weight in network.trainable_variables:  # as large as He's, so that the answers differ
        if len(weight.shape) > 1:
            inputs = prod(weight.shape[:2] if weight.shape[-1] == 1 else weight.shape[:-1])
            weight.assign(random.normal(0, (2 / inputs) ** 0.5, weight.shape))
    network.export(str(folder / "saved"), format="tf_saved_model", verbose=False)
    network.save(folder / "my.keras")
    answers = network.predict(images / np.float32(255), verbose=0)
    np.savez(folder / "tensorflow.npz", images=images.transpose(0, 3, 1, 2), answers=answers)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
