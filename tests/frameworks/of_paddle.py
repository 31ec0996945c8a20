"""Write a network of PaddlePaddle, and what it answers: python of_paddle.py FOLDER.

For an environment of its own, with paddlepaddle and paddle2onnx; `make test-graphs` makes it.
"""

import sys
from importlib import import_module
from math import prod
from pathlib import Path

import numpy as np


def write(folder: Path) -> None:
    paddle = import_module("paddle")
    network = paddle.vision.models.mobilenet_v2(scale=0.25, num_classes=4)
    network.eval()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 3, 64, 64), np.uint8)
    for weight in network.parameters():  # as large as He's, so that the answers differ
        if len(weight.shape) > 1:
            inputs = weight.shape[0] if len(weight.shape) == 2 else prod(weight.shape[1:])
            weight.set_value(random.normal(0, (2 / inputs) ** 0.5, weight.shape).astype(np.float32))
    shape = paddle.static.InputSpec([None, 3, 64, 64], "float32", "x")
    paddle.jit.save(network, str(folder / "inference"), input_spec=[shape])
    answers = network(paddle.to_tensor(images / np.float32(255))).numpy()
    np.savez(folder / "paddle.npz", images=images, answers=answers)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
