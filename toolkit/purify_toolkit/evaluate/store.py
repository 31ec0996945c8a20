"""The files in which measurements are kept, so that an interrupted evaluation goes on where it stopped."""

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purify_edge.bundle.manifest import SpareEntry
from purify_edge.files import atomic, write_json
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.measure import Measurement, MeasurementPlan

SAME = 1e-4
"""By so much, as a fraction, the rule's threshold may differ: another device computes it."""
SCHEMA = 1
"""Raised whenever the same identity would give another result."""


@dataclass(frozen=True)
class Store:
    """The measurements of one run on some test images.

    ```
    rows/NAME-IDENTITY.json      identity, result, which images were right
    rows/NAME-IDENTITY.npz       the first attacked images: clean, uint8; attacked, float32; labels
    ```
    A measurement is used again where its identity is the same: of weights, images, seed, attack and schema. Others
    stay beside it, so that a quick trial costs nothing of a long evaluation. Where the rule that spares clean images is
    asked for, a row must have been judged by that rule; where it is not, what it made of a row is left out.
    """

    folder: Path
    test: Split
    weights: dict[str, str]
    seed: int
    overwrite: bool = False
    spare: SpareEntry | None = None
    _digests: dict[int, str] = field(default_factory=dict, init=False)

    def identity(self, plan: MeasurementPlan) -> dict[str, Any]:
        """Return all that the measurement depends on."""
        if plan.n not in self._digests:
            self._digests[plan.n] = self.test[: plan.n].sha256()
        return {
            "schema": SCHEMA,
            "row": plan.row,
            "attack": str(plan.attack),
            "n": plan.n,
            "seed": self.seed,
            "images_sha256": self._digests[plan.n],
            "weights_sha256": self.weights,
        }

    def load(self, plan: MeasurementPlan) -> Measurement | None:
        """Return the measurement, if it has been made."""
        if self.overwrite or not self.examples_path(plan).is_file():
            return None
        try:
            content = json.loads(self.path(plan).read_text())
            if content["identity"] != self.identity(plan) or not self._judged(plan, content.get("spare_threshold")):
                return None
            found = Measurement.from_dict(plan, content["result"])
            return found if self.spare else replace(found, spared=None)
        except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: it is made again
            return None

    def save(self, measurement: Measurement, examples: Tensor) -> None:
        """Write the examples, then the result: its presence says that all is there."""
        plan, kept = measurement.plan, self.test[: len(examples)]
        self.path(plan).parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.examples_path(plan)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, clean=kept.images.numpy(), attacked=examples.numpy(), labels=kept.labels.numpy())
        content = {"identity": self.identity(plan), "result": measurement.as_dict()}
        rule = {} if self.spare is None or measurement.spared is None else {"spare_threshold": self.spare.threshold}
        write_json(self.path(plan), content | rule)

    def _judged(self, plan: MeasurementPlan, threshold: float | None) -> bool:
        """Return whether a measurement with this threshold of the rule, or none, says what is asked for."""
        if self.spare is None or not plan.is_row:
            return True
        return threshold is not None and math.isclose(threshold, self.spare.threshold, rel_tol=SAME)

    def path(self, plan: MeasurementPlan) -> Path:
        """Return the file of a measurement."""
        short = hashlib.sha256(json.dumps(self.identity(plan), sort_keys=True).encode()).hexdigest()[:8]
        return self.folder / "rows" / f"{plan.name.replace(':', '-')}-{short}.json"

    def examples_path(self, plan: MeasurementPlan) -> Path:
        """Return the file of its examples."""
        path = self.path(plan)
        return path.with_name(f"{path.stem}.npz")

    def load_examples(self, plan: MeasurementPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Return clean images uint8, attacked images float32, both `[M, C, H, W]`, labels `[M]`; M at most 16."""
        with np.load(self.examples_path(plan), allow_pickle=False) as arrays:
            clean, attacked, labels = (torch.from_numpy(arrays[key]) for key in ("clean", "attacked", "labels"))
        return clean, attacked, labels
