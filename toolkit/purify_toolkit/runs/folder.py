"""The run folder: everything one training leaves behind, each file whole or absent."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError, reason
from purify_edge.files import atomic
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.architectures import Classifier, Purifier
from purify_toolkit.networks.doors.doors import WHOLE
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier
from purify_toolkit.recipe import PurifierTable, Recipe, parse_recipe, read_recipe

Network = TypeVar("Network", bound=nn.Module)

KEYS = {"recipe", "recipe_sha256", "seed", "limit", "dataset", "commit", "class_names", "image_shape", "mean", "std"}
"""What run.json says at least."""


def save_state(state: object, path: Path) -> None:
    """Write tensors and what goes with them as `torch.load(weights_only=True)` reads them, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()  # writing to a path, torch.save reports a full disk as a RuntimeError
    torch.save(state, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@dataclass(frozen=True)
class Samples(Split):
    """Test images that travel with a run, and their indices `[N]` in the test set."""

    indices: Tensor


@dataclass(frozen=True)
class RunFolder:
    """A finished or interrupted training.

    ```
    run.json                recipe's name, seed, versions, classes, image shape: what identifies the run
    recipe.toml             the recipe as run
    metrics.jsonl           losses and validation figures, a line an epoch
    metrics.json            the final evaluation on the test images, and what harm the purifier does
    {classifier,adversarial_teacher,normal_teacher,student}.safetensors
    classifier.{onnx,pt2,torchscript}  classifier/   the user's own file in place of weights; or what builds the network
    samples.npz             test images for golden sets and demonstrations
    losses.png  grid.png
    tensorboard/            the lines of metrics.jsonl as event files, a folder a stage
    checkpoints/            of stages under way, and the adversarial examples; removed at the end
    ```
    """

    path: Path

    @cached_property
    def info(self) -> dict[str, Any]:
        """The content of run.json; an InputError where this is not a run folder."""
        try:
            info: dict[str, Any] = json.loads((self.path / "run.json").read_text())
            missing = KEYS - info.keys() if isinstance(info, dict) else KEYS
            if missing:
                raise ValueError(f"{', '.join(sorted(missing))} missing")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path} is not a run folder ({error}); expected one that purify-train wrote"
            ) from error
        return info

    def provenance(self) -> dict[str, Any]:
        """Return where this run came from and how it did: run.json, and metrics.json where the run is evaluated."""
        return {"run": self.info, "metrics": self.metrics}

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The content of metrics.json; None where the run is not evaluated."""
        path = self.path / "metrics.json"
        try:
            metrics: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); purify-train --resume writes it again") from error
        return metrics

    @property
    def input(self) -> InputContract:
        """What the networks take, and how a picture becomes that; runs from before it was said stretch, bilinear."""
        channels, height, width = self.info["image_shape"]
        how = self.info.get("preprocessing", {})
        try:
            return msgspec.convert(
                {"channels": channels, "height": height, "width": width, "preprocessing": how}, InputContract
            )
        except msgspec.ValidationError as error:
            raise InputError(f"{self.path / 'run.json'}: {error}; expected what purify-train wrote") from error

    @property
    def harm(self) -> list[str]:
        """In what the purifier is worse than none, by validation images, a sentence each; see `train.harm`."""
        return list((self.metrics or {}).get("harm", []))

    @property
    def is_unlabelled(self) -> bool:
        """Whether labels are the classifier's own answers: every accuracy is agreement with these then."""
        return bool(self.info.get("unlabelled"))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as run."""
        path = self.path / "recipe.toml"
        if not path.is_file():
            raise InputError(
                f"{self.path} is not a run folder: it has no recipe.toml; expected one that purify-train wrote"
            )
        return parse_recipe(read_recipe(path), source=str(path))

    def weights_path(self, name: str) -> Path:
        """Return the file of one network's weights; a pair that ships may have the classifier of the pair beside it."""
        own = self.path / f"{name}.safetensors"
        if name != "classifier" or own.exists():
            return own
        whole = next((self.path / file for file in WHOLE if (self.path / file).exists()), None)
        if whole is not None or not (self.path / "run.json").is_file():
            return whole or own
        other = self.info.get("classifier_of")
        return self.path.parent / other / own.name if other else own

    def checkpoint_path(self, name: str) -> Path:
        """Return the file of one stage's checkpoint."""
        return self.path / "checkpoints" / f"{name}.pt"

    def has(self, name: str) -> bool:
        """Return whether this network is trained."""
        return self.weights_path(name).is_file()

    def new_classifier(self) -> Classifier | PixelClassifier:
        """Build an untrained classifier of the recipe's size, or the user's own without its weights."""
        info, table = self.info, self.recipe.classifier
        if info.get("classifier"):
            source = ClassifierSource.from_dict(info["classifier"])
            channels, classes = info["image_shape"][0], len(info["class_names"])
            return build_classifier(source, channels=channels, classes=classes, run=self.path)
        return Classifier(
            info["image_shape"][0],
            len(info["class_names"]),
            mean=info["mean"],
            std=info["std"],
            width=table.width,
            blocks=table.blocks,
            architecture=table.architecture,
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """The networks that the recipe trains, in order."""
        return ("classifier", *self.recipe.teachers, "student")

    def new_purifier(self, table: PurifierTable) -> Purifier:
        """Build an untrained purifier of a table's size."""
        channels = self.info["image_shape"][0]
        return Purifier(channels, **table.network)

    def load_classifier(self) -> Classifier | PixelClassifier:
        """Load the trained classifier, the recipe's or the user's own: frozen, in evaluation mode, on the CPU."""
        return self._load("classifier", self.new_classifier)

    def load_student(self) -> Purifier:
        """Load the trained purifier: frozen, in evaluation mode, on the CPU."""
        return self._load("student", lambda: self.new_purifier(self.recipe.student))

    def load_teacher(self, name: str) -> Purifier:
        """Load a trained teacher, `adversarial_teacher` or `normal_teacher`: frozen, in evaluation mode."""
        return self._load(name, lambda: self.new_purifier(self.recipe.purifier(name)))

    def _load(self, name: str, make: Callable[[], Network]) -> Network:
        network, path = make(), self.weights_path(name)
        if not path.is_file():
            raise InputError(
                f"{self.path} has no {path.name}; finish the training with purify-train --resume, or give another run"
            )
        if not (isinstance(network, PixelClassifier) and network.is_whole):
            try:
                network.load_state_dict(load_file(path))
            except (SafetensorError, RuntimeError) as error:
                raise InputError(f"{path} does not hold the recipe's {name}: {reason(error)}") from error
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # as images are

    def save_weights(self, name: str, network: nn.Module) -> None:
        """Write a network's weights."""
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
        with atomic(self.weights_path(name)) as temporary:
            temporary.write_bytes(save(tensors))  # save_file reports a full disk by an exception of its own

    def save_classifier(self, classifier: Classifier | PixelClassifier) -> None:
        """Write a classifier's weights, or the user's own files that hold it."""
        own = classifier if isinstance(classifier, PixelClassifier) else None
        for name, content in own.files.items() if own else ():
            (self.path / name).parent.mkdir(exist_ok=True)
            with atomic(self.path / name) as temporary:
                temporary.write_bytes(content)
        if own is None or not own.is_whole:
            self.save_weights("classifier", classifier)

    def save_examples(self, state: dict[str, Tensor]) -> None:
        """Write the adversarial training examples that a stage ended with, for the next one; see `AdversarialPool`."""
        save_state(state, self.checkpoint_path("examples"))

    def load_examples(self) -> dict[str, Tensor] | None:
        """Read the examples of an earlier stage; None where no stage has made any."""
        path = self.checkpoint_path("examples")
        if not path.is_file():
            return None
        try:
            return dict(torch.load(path, weights_only=True))
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f"{path} cannot be read ({reason(error)}); remove it to make them again") from error

    def save_samples(self, samples: Samples) -> None:
        """Write the travelling test images."""
        with atomic(self.path / "samples.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in vars(samples).items()})

    @property
    def has_samples(self) -> bool:
        """Whether test images travel with this run; a pair whose images may not be passed on ships without."""
        return (self.path / "samples.npz").is_file()

    def load_samples(self) -> Samples:
        """Read the travelling test images; raise InputError where the file is missing or damaged."""
        path = self.path / "samples.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                images, labels, indices = (torch.from_numpy(arrays[key]) for key in ("images", "labels", "indices"))
        except Exception as error:  # a damaged zip raises almost anything
            raise InputError(f"{path} cannot be read ({error}); expected the file that purify-train wrote") from error
        return Samples(images, labels, indices)
