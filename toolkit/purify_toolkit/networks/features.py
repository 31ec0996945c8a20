"""The features of a classifier of any architecture: the input of its last layer."""

from typing import Any

from torch import Tensor, nn

from purify_edge.errors import InputError


class ClassifierFeatures(nn.Module):
    """The input of the classifier's last linear or convolutional layer, for images `[N, C, H, W]`: float32 `[N, D]`.

    Raises:
        InputError: it has no such layer.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self._classifier = classifier
        layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if not layers:
            raise InputError(
                "feature_guidance needs a classifier with a linear or convolutional layer, and this one has none; "
                "leave it out of the recipe"
            )
        self._last = layers[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features alone."""
        return self.with_logits(images)[0]

    def with_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits."""
        given: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            given.append(inputs[0])

        hook = self._last.register_forward_pre_hook(keep)
        try:
            logits = self._classifier(images)
        finally:
            hook.remove()
        return given[-1].flatten(1).float(), logits
