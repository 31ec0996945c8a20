"""PGD on an ONNX graph, image by image, for programs that hold arrays: purify-demo calls it where it is installed."""

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.networks.onnx_graphs.conversion import torch_from_onnx
from purify_toolkit.networks.onnx_graphs.proof import prove_conversion
from purify_toolkit.networks.onnx_graphs.reading import parsed

Array = NDArray[np.float32]
STEPS, RELATIVE_STEP = 20, 0.125


class GraphPGD:
    """PGD with 20 steps of an eighth of epsilon on a classifier's graph, by its conversion to PyTorch.

    Any thread may call it.
    """

    def __init__(self, graph: bytes, images_NCHW: Array, *, source: str) -> None:
        """Convert the graph, and check the conversion.

        Args:
            graph: an ONNX graph from images `[N, C, H, W]` in [0, 1] to logits `[N, K]`.
            images_NCHW: on which the conversion must give the graph's logits.
            source: what messages call the graph.

        Raises:
            InputError: the graph cannot be converted, or the conversion answers otherwise.
            MissingError: onnxscript or onnx2pytorch is not installed.
        """
        model = parsed(graph, source)
        self._network = torch_from_onnx(model, source=source)
        prove_conversion(model, self._network, torch.from_numpy(images_NCHW), source=source)

    def __call__(
        self, image_CHW: Array, label: int, *, epsilon: float, seed: int, tell: Callable[[int, int], None]
    ) -> Array:
        """Return the attacked image, `[C, H, W]`, its pixels whole 255ths.

        Args:
            image_CHW: in [0, 1], its pixels whole 255ths.
            label: the class to get away from.
            epsilon: the largest change of a pixel, rounded to whole 255ths.
            seed: of the random start.
            tell: called before each step with its number, from 1, and the number of all.
        """
        steps = count(1)

        def model(x_NCHW: Tensor) -> Tensor:
            tell(next(steps), STEPS)
            logits: Tensor = self._network(x_NCHW)
            return logits

        attack = PGD(epsilon=round(255 * epsilon) / 255, steps=STEPS, relative_step=RELATIVE_STEP)
        generator = torch.Generator().manual_seed(seed)
        images, labels = torch.from_numpy(image_CHW)[None], torch.tensor([label])
        found = attack(model, images, labels, generator=generator)[0]
        attacked: Array = ((255 * found).round() / 255).numpy()
        return attacked
