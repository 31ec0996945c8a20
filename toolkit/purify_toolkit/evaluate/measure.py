"""Measuring: one attack on so many test images, kept in files of its own; an interrupted evaluation goes on."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purify_edge.files import atomic, write_json
from purify_toolkit.attacks.norms import NORMS
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.device.generators import seeded
from purify_toolkit.evaluate.accuracy import Row
from purify_toolkit.evaluate.methods import METHODS, Case, Settings, Size
from purify_toolkit.evaluate.stats import Correct
from purify_toolkit.evaluate.threats import ROWS, THREATS, Subject

SCHEMA = 1
"""Raised whenever the same identity would give another result."""

EXAMPLES = 16
"""Attacked images that are kept of each measurement."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured: a row, how strong, on how many images. `name` is also its file's."""

    name: str
    row: str
    settings: Settings
    n: int

    @property
    def attack(self) -> str:
        """Norm, size, steps, restarts."""
        return METHODS[ROWS[self.row][1]].describe(self.settings)

    @property
    def size(self) -> Size | None:
        """The ball that the attacked images lie in."""
        return METHODS[ROWS[self.row][1]].size(self.settings)


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        plan: what was to be.
        defended: which images are classified right, `[N]`.
        undefended: likewise by the classifier alone; None where the threat has no such row.
        distance: the largest of the attacked images' distances from the clean ones, in the plan's norm; None without.
        pixels: the attacked images' smallest and largest value.
        warnings: what a library said against its own result.
        seconds: it took.
    """

    plan: Plan
    defended: Correct
    undefended: Correct | None
    distance: float | None
    pixels: tuple[float, float]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def threat(self) -> str:
        """The threat's name."""
        return ROWS[self.plan.row][0]

    def rows(self) -> list[Row]:
        """Undefended, where there is such a row, then defended."""
        both = ((False, self.undefended), (True, self.defended))
        return [
            Row(self.threat, self.plan.attack, is_defended, n=len(correct), correct=int(correct.sum()))
            for is_defended, correct in both
            if correct is not None
        ]

    def as_dict(self) -> dict[str, Any]:
        """For its file."""
        return {
            "defended": _text(self.defended),
            "undefended": None if self.undefended is None else _text(self.undefended),
            "distance": self.distance,
            "pixels": self.pixels,
            "warnings": self.warnings,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, plan: Plan, content: dict[str, Any]) -> "Measurement":
        """What `as_dict` gave."""
        undefended = content["undefended"]
        low, high = content["pixels"]
        return cls(
            plan,
            _correct(content["defended"]),
            None if undefended is None else _correct(undefended),
            content["distance"],
            (low, high),
            tuple(content["warnings"]),
            content["seconds"],
        )


def _text(correct: Correct) -> str:
    return "".join("1" if right else "0" for right in correct)


def _correct(text: str) -> Correct:
    return np.array([character == "1" for character in text], dtype=np.bool_)


@dataclass(frozen=True)
class Store:
    """Where the measurements of one run on some test images are kept.

    ```
    rows/NAME-IDENTITY.json      identity, result, which images were right
    rows/NAME-IDENTITY.npz       the first attacked images: clean, uint8; attacked, float32; labels
    ```
    A measurement is used again where its identity is the same: of weights, images, seed, attack and schema.
    Others stay beside it, so that a quick trial costs nothing of a long evaluation.
    """

    folder: Path
    test: Split
    weights: dict[str, str]
    seed: int
    fresh: bool = False
    _digests: dict[int, str] = field(default_factory=dict, init=False)

    def identity(self, plan: Plan) -> dict[str, Any]:
        """What the measurement depends on."""
        if plan.n not in self._digests:
            self._digests[plan.n] = digest(self.test[: plan.n])
        return {
            "schema": SCHEMA,
            "row": plan.row,
            "attack": plan.attack,
            "n": plan.n,
            "seed": self.seed,
            "images_sha256": self._digests[plan.n],
            "weights_sha256": self.weights,
        }

    def load(self, plan: Plan) -> Measurement | None:
        """The measurement, if it has been made."""
        if self.fresh or not self.examples_path(plan).is_file():
            return None
        try:
            content = json.loads(self.path(plan).read_text())
            if content["identity"] != self.identity(plan):
                return None
            return Measurement.from_dict(plan, content["result"])
        except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: it is made again
            return None

    def save(self, measurement: Measurement, examples: Tensor) -> None:
        """Write the examples, then the result: its presence says that all is there."""
        plan, kept = measurement.plan, self.test[: len(examples)]
        self.path(plan).parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.examples_path(plan)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, clean=kept.images.numpy(), attacked=examples.numpy(), labels=kept.labels.numpy())
        content = {"identity": self.identity(plan), "result": measurement.as_dict()}
        write_json(self.path(plan), content)

    def path(self, plan: Plan) -> Path:
        """The file of a measurement."""
        short = hashlib.sha256(json.dumps(self.identity(plan), sort_keys=True).encode()).hexdigest()[:8]
        return self.folder / "rows" / f"{plan.name.replace(':', '-')}-{short}.json"

    def examples_path(self, plan: Plan) -> Path:
        """The file of its examples."""
        path = self.path(plan)
        return path.with_name(f"{path.stem}.npz")

    def load_examples(self, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """Clean images uint8, attacked images float32, both `[M, C, H, W]`, labels `[M]`; M at most `EXAMPLES`."""
        with np.load(self.examples_path(plan), allow_pickle=False) as arrays:
            clean, attacked, labels = (torch.from_numpy(arrays[key]) for key in ("clean", "attacked", "labels"))
        return clean, attacked, labels


def digest(split: Split) -> str:
    """SHA-256 of images and labels."""
    found = hashlib.sha256(repr(tuple(split.images.shape)).encode())
    found.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    return found.hexdigest()


def measure(
    subject: Subject,
    test: Split,
    plan: Plan,
    *,
    seed: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> tuple[Measurement, Tensor]:
    """Attack the first `plan.n` test images and classify what comes of them.

    The generator depends on seed and row alone, so a row's figures do not depend on what else is measured.

    Args:
        subject: the networks, on `device`.
        test: at least `plan.n` images.
        plan: what to do.
        seed: of the attack's random choices.
        advance: told the number of images done, after each batch.

    Returns:
        The measurement, and the first attacked images `[M, C, H, W]`, M at most `EXAMPLES`, on the CPU.
    """
    threat, method = THREATS[ROWS[plan.row][0]], METHODS[ROWS[plan.row][1]]
    model, generator = subject.target(threat.against), seeded(seed, plan.row, device=device)
    tally, start = _Tally(plan.size), time.perf_counter()
    for images, labels in batches(test[: plan.n], device):
        case = Case(model=model, images=images, labels=labels, settings=plan.settings, generator=generator)
        made = method.make(case)
        tally.add(images, made.images, made.warnings)
        tally.defended.append(right(subject.pipeline, made.images, labels))
        if threat.undefended:
            tally.undefended.append(right(subject.classifier, made.images, labels))
        advance(len(labels))
    return tally.measurement(plan, time.perf_counter() - start), torch.cat(tally.examples)[:EXAMPLES]


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> Correct:
    """Which images `[N, C, H, W]` the model gives their label, `[N]`."""
    found: Correct = (model(images).argmax(1) == labels).cpu().numpy()
    return found


class _Tally:
    """What adds up batch by batch."""

    def __init__(self, size: Size | None) -> None:
        self.size = size
        self.defended: list[Correct] = []
        self.undefended: list[Correct] = []
        self.examples: list[Tensor] = []
        self.distance, self.low, self.high = 0.0, float("inf"), float("-inf")
        self.warnings: dict[str, None] = {}  # a set that keeps the order

    def add(self, clean: Tensor, attacked: Tensor, warnings: tuple[str, ...]) -> None:
        """Take note of attacked images `[B, C, H, W]`."""
        if sum(map(len, self.examples)) < EXAMPLES:
            self.examples.append(attacked[:EXAMPLES].detach().cpu())
        if self.size is not None:
            distance = float(NORMS[self.size[0]].size(attacked - clean).max())
            self.distance = float(np.maximum(self.distance, distance))  # which keeps a NaN
        self.low = float(np.minimum(self.low, float(attacked.min())))
        self.high = float(np.maximum(self.high, float(attacked.max())))
        self.warnings.update(dict.fromkeys(warnings))

    def measurement(self, plan: Plan, seconds: float) -> Measurement:
        """All of it."""
        return Measurement(
            plan,
            np.concatenate(self.defended),
            np.concatenate(self.undefended) if self.undefended else None,
            None if self.size is None else self.distance,
            (self.low, self.high),
            tuple(self.warnings),
            round(seconds, 2),
        )
