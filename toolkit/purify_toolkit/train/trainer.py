"""The training loop: one stage after another, a checkpoint after each epoch, the same weights with or without a break.

Every random choice of an epoch comes from a generator seeded by run seed, stage and epoch, so a resumed
epoch repeats what the interrupted one would have done, but for the rounding of sums (GPU kernels may differ more).
"""

import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from purify_edge.errors import InputError, reason
from purify_edge.shell.stages import StageProgress
from purify_toolkit.data.batch import Batch
from purify_toolkit.device.generators import seeded
from purify_toolkit.device.memory import BUDGET, free_bytes, kept_bytes
from purify_toolkit.device.precision import precision_on
from purify_toolkit.device.processes import Processes
from purify_toolkit.runs.folder import RunFolder, save_state
from purify_toolkit.runs.history import History, Line
from purify_toolkit.train.stages import TrainingStage
from purify_toolkit.train.student import Losses

logger = logging.getLogger("purify_edge")

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
"""Of the recipe's key `optimizer`; each takes parameters, `lr` and `weight_decay`."""
UNREADABLE = RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError
"""What reading a checkpoint raises that is damaged, or of another version."""


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Give the network its first weights, from `generator` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def batch_indices(count: int, batch_size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Put `count` images into `steps` random batches; a smaller one is left out, but where there is no other."""
    chosen: list[Tensor] = []
    while len(chosen) < steps:
        batches = torch.randperm(count, generator=generator).split(batch_size)
        chosen += [batch for batch in batches if len(batch) == batch_size] or batches
    return chosen[:steps]


def set_training(network: nn.Module, *, keep_statistics: bool) -> None:
    """Put a network into training mode; its batch normalisation may keep its statistics, and use them."""
    network.train()
    for module in network.modules():
        if keep_statistics and isinstance(module, _BatchNorm):
            module.eval()


def _in_words(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in losses.items())


def _percentages(validation: Mapping[str, float]) -> Iterator[str]:
    """Yield the accuracies of a validation as people read them."""
    for name, value in validation.items():
        what, is_accuracy, of = name.partition("accuracy_")
        if is_accuracy:
            yield f"{what}validation {of.replace('_', '-')} {100 * value:.1f}%"


class _Losses(nn.Module):
    """A stage's losses with its network in it: what DistributedDataParallel can wrap."""

    def __init__(self, stage: TrainingStage) -> None:
        super().__init__()
        self.network = stage.network
        self._losses = stage.losses

    def forward(self, batch: Batch) -> Losses:
        return self._losses(batch)


class Trainer:
    """Trainer of one stage of a run, together with the same object in each other process."""

    def __init__(
        self,
        stage: TrainingStage,
        run: RunFolder,
        *,
        count: int,
        seed: int,
        processes: Processes,
        progress: StageProgress,
    ) -> None:
        self._stage, self._run, self._count, self._seed = stage, run, count, seed
        self._processes, self._progress = processes, progress
        self._precision = precision_on(processes.device, run.recipe.precision)
        table = stage.optimizer
        batch = min(count, table.batch_size)
        if batch < processes.count:
            raise InputError(f"a batch of {batch} images cannot be shared by {processes.count} processes; start fewer")
        self._length, self._steps = table.length(count)
        initialise(stage.network, seeded(seed, stage.name, "initialise"))
        if stage.prepare is not None:
            stage.prepare()
        stage.network.to(memory_format=torch.channels_last)
        self._losses = processes.wrap(_Losses(stage), stage.network)
        self._optimizer = OPTIMIZERS[table.optimizer](
            stage.network.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay
        )
        self._scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, table.learning_rate, total_steps=self._length * self._steps
        )
        self._parts = self._fitting_parts(batch)

    def train(self) -> None:
        """Train from the last checkpoint, or from the start, to the end; the main process writes the weights."""
        first = self._resume()
        if self._processes.is_main:
            with History(self._run, self._stage.name, epochs_done=first) as history:
                self._epochs(first, history)
            self._keep()
        else:
            self._epochs(first, None)
        self._processes.wait()

    def _epochs(self, first: int, history: History | None) -> None:
        """Train all epochs from `first` on; the process that has the history judges them and makes the checkpoints."""
        for epoch in range(first, self._length):
            start = time.perf_counter()
            losses = self._epoch(epoch)
            self._stage.network.eval()
            if history is None:
                continue
            line: Line = {
                "stage": self._stage.name,
                "epoch": epoch,
                "losses": losses,
                "validation": self._validate(),
                "learning_rate": self._scheduler.get_last_lr()[0],
                "precision": self._precision,
                "seconds": round(time.perf_counter() - start, 1),
            }
            history.append(line)
            self._progress.advance(0, "  ".join([_in_words(losses), *_percentages(line["validation"])]))
            self._save(epoch + 1)

    def _keep(self) -> None:
        """Write what the stage leaves behind."""
        if self._stage.pool is not None:
            self._run.save_examples(self._stage.pool.state)
        self._run.save_weights(self._stage.name, self._stage.network.eval())
        self._run.checkpoint_path(self._stage.name).unlink(missing_ok=True)

    def _validate(self) -> dict[str, float]:
        with self._mixed():
            return self._stage.validate()

    def _epoch(self, epoch: int) -> dict[str, float]:
        stage = self._stage
        generator = seeded(self._seed, stage.name, epoch)
        order = batch_indices(self._count, stage.optimizer.batch_size, self._steps, generator)
        due = torch.tensor([]) if stage.pool is None else stage.pool.due(epoch, torch.cat(order))
        self._progress.epoch(stage.name, epoch, self._length, len(due) + sum(map(len, order)))
        attack_generator = seeded(self._seed, stage.name, epoch, "attack", device=self._processes.device)
        if stage.pool is not None:
            with self._mixed():
                for done in stage.pool.refresh(due, attack_generator):
                    self._progress.advance(done, "attacking")
        set_training(stage.network, keep_statistics=stage.keep_statistics)
        sums: dict[str, float] = {}
        for indices in order:
            losses = self._step(Batch(indices, generator, attack_generator, self._processes.share))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            self._progress.advance(len(indices), _in_words(losses))
        return {name: value / len(order) for name, value in sums.items()}

    def _step(self, batch: Batch) -> dict[str, float]:
        """Take one step of the optimizer; return the losses over the whole batch, each by its name.

        The gradients of the batch's parts add up to those of the whole.
        """
        self._optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in batch.parts(self._parts):
            for name, value in self._backward(part).items():
                sums[name] = sums.get(name, 0) + value
        self._optimizer.step()
        self._scheduler.step()
        means = self._processes.mean(torch.stack(list(sums.values())))
        return dict(zip(sums, means.tolist(), strict=True))

    def _backward(self, part: Batch) -> Losses:
        """Add the gradients of a part of a batch to those that are there; return its share of the losses."""
        with self._mixed():
            losses = self._losses(part)
        # Each is a mean over the part; parts and processes' shares may differ by an image.
        values = torch.stack(list(losses.values())) * (len(part.mine) * self._processes.count / len(part.indices))
        if not values.isfinite().all():
            raise InputError(
                f"{self._stage.name}: the loss is not finite, and so would be all weights after it. Where it grew "
                "before, a lower learning_rate helps; where not, the training holds an image for which the classifier "
                "divides by 0, such as one of a single colour: leave it out"
            )
        values.sum().backward()
        return dict(zip(losses, values.detach(), strict=True))

    def _fitting_parts(self, batch: int) -> int:
        """Return in how many parts a batch of so many images fits into memory, the same for all processes.

        What two images keep more than one is what an image needs.
        """
        processes, share = self._processes, batch // self._processes.count
        if self._count < 2:
            return 1
        self._stage.network.eval()
        per_image = self._kept(2) - self._kept(1)
        wanted, free = per_image * share, free_bytes(processes.device) / processes.local_count
        own = min(share, max(1, math.ceil(wanted / max(1.0, BUDGET * free))))
        parts = max(int(processes.from_owner(torch.tensor([own]), owner)) for owner in range(processes.count))
        if parts > 1:
            logger.info(
                "%s: a batch of %d images needs about %.1f GiB, %.1f are free: it is computed in %d parts%s",
                *(self._stage.name, share, wanted / 2**30, free / 2**30, parts),
                "" if self._stage.keep_statistics else ", of which batch normalisation sees each alone",
            )
        return parts

    def _kept(self, count: int) -> int:
        """Return how many bytes are kept for the backward pass of so many images."""
        seed, device = (self._seed, self._stage.name, "trial"), self._processes.device
        trial = Batch(torch.arange(count), seeded(*seed), seeded(*seed, device=device))
        with self._mixed():
            return kept_bytes(lambda: self._stage.losses(trial))

    def _mixed(self) -> torch.autocast:
        """Compute convolutions in bfloat16, which needs no scaling of the loss, or all in float32."""
        return torch.autocast(self._processes.device.type, torch.bfloat16, enabled=self._precision == "bfloat16")

    def _save(self, epochs_done: int) -> None:
        stage = self._stage
        state = {
            "epochs_done": epochs_done,
            "network": stage.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "parts": self._parts,
            "pool": None if stage.pool is None else stage.pool.state,
        }
        save_state(state, self._run.checkpoint_path(stage.name))

    def _resume(self) -> int:
        path = self._run.checkpoint_path(self._stage.name)
        if not path.is_file():
            return 0
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location=self._processes.device)
            self._stage.network.load_state_dict(state["network"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scheduler.load_state_dict(state["scheduler"])
            self._parts = int(state["parts"])  # as before, for batch normalisation sees parts
            if self._stage.pool is not None:
                self._stage.pool.state = state["pool"]
        except UNREADABLE as error:
            raise InputError(
                f"{path} cannot be resumed from ({reason(error)}); remove it to repeat this stage"
            ) from error
        return int(state["epochs_done"])
