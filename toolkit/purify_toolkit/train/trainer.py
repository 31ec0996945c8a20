"""The training loop: one stage after another, a checkpoint after each epoch, the same weights with or without a break.

Every random choice of an epoch comes from a generator seeded by run seed, stage and epoch, so a resumed
epoch repeats what the interrupted one would have done, but for the rounding of sums (GPU kernels may differ more).
"""

import pickle
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from purify_edge.errors import InputError, reason
from purify_edge.shell.stages import StageProgress
from purify_toolkit.data.batch import Batch
from purify_toolkit.device.generators import seeded
from purify_toolkit.device.precision import precision_on
from purify_toolkit.device.processes import Processes
from purify_toolkit.runs.folder import RunFolder, save_state
from purify_toolkit.runs.history import History
from purify_toolkit.train.stages import TrainingStage
from purify_toolkit.train.student import Losses

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
"""Of the recipe's key `optimizer`; each takes parameters, `lr` and `weight_decay`."""


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Give the network its first weights, from `generator` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def batch_indices(count: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Put `count` images into random batches; a last, smaller batch is left out of all but a lone one."""
    batches = torch.randperm(count, generator=generator).split(batch_size)
    full = [batch for batch in batches if len(batch) == batch_size]
    return full or list(batches)


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
        self._steps = max(1, count // table.batch_size)
        initialise(stage.network, seeded(seed, stage.name, "initialise"))
        if stage.prepare is not None:
            stage.prepare()
        stage.network.to(memory_format=torch.channels_last)
        self._losses = processes.wrap(_Losses(stage), stage.network)
        self._optimizer = OPTIMIZERS[table.optimizer](
            stage.network.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay
        )
        self._scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, table.learning_rate, total_steps=table.epochs * self._steps
        )

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
        for epoch in range(first, self._stage.optimizer.epochs):
            start = time.perf_counter()
            losses = self._epoch(epoch)
            self._stage.network.eval()
            if history is None:
                continue
            line = {
                "stage": self._stage.name,
                "epoch": epoch,
                "losses": losses,
                "validation": self._validate(),
                "learning_rate": self._scheduler.get_last_lr()[0],
                "precision": self._precision,
                "seconds": round(time.perf_counter() - start, 1),
            }
            history.append(line)
            self._save(epoch + 1)

    def _keep(self) -> None:
        """Write what the stage leaves behind."""
        if self._stage.pool is not None:
            self._run.save_examples(self._stage.pool.examples)
        self._run.save_weights(self._stage.name, self._stage.network.eval())
        self._run.checkpoint_path(self._stage.name).unlink(missing_ok=True)

    def _validate(self) -> dict[str, float]:
        with self._mixed():
            return self._stage.validate()

    def _epoch(self, epoch: int) -> dict[str, float]:
        stage = self._stage
        generator = seeded(self._seed, stage.name, epoch)
        order = batch_indices(self._count, stage.optimizer.batch_size, generator)
        due = 0 if stage.pool is None else len(stage.pool.due(epoch))
        self._progress.epoch(stage.name, epoch, stage.optimizer.epochs, due + sum(map(len, order)))
        attack_generator = seeded(self._seed, stage.name, epoch, "attack", device=self._processes.device)
        if stage.pool is not None:
            with self._mixed():
                for done in stage.pool.refresh(epoch, attack_generator):
                    self._progress.advance(done, "attacking")
        stage.network.train()
        sums: dict[str, float] = {}
        for indices in order:
            losses = self._step(Batch(indices, generator, attack_generator, self._processes.share))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            self._progress.advance(len(indices), "  ".join(f"{name} {value:.4f}" for name, value in losses.items()))
        return {name: value / len(order) for name, value in sums.items()}

    def _step(self, batch: Batch) -> dict[str, float]:
        """Take one step of the optimizer; return the losses over the whole batch, each by its name."""
        with self._mixed():
            losses = self._losses(batch)
        values = torch.stack(list(losses.values()))
        if self._processes.count > 1:  # shares may differ by an image; the mean over the processes is to be the batch's
            values = values * (len(batch.mine) * self._processes.count / len(batch.indices))
        if not values.isfinite().all():
            raise InputError(
                f"{self._stage.name}: the loss is not finite, and so would be all weights after it. Where it grew "
                "before, a lower learning_rate helps; where not, the training holds an image for which the classifier "
                "divides by 0, such as one of a single colour: leave it out"
            )
        self._optimizer.zero_grad(set_to_none=True)
        values.sum().backward()
        self._optimizer.step()
        self._scheduler.step()
        return dict(zip(losses, self._processes.mean(values.detach()).tolist(), strict=True))

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
            "pool": None if stage.pool is None else stage.pool.examples,
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
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                f"{path} cannot be resumed from ({reason(error)}); remove it to repeat this stage"
            ) from error
        if self._stage.pool is not None:
            self._stage.pool.examples = state["pool"].cpu()
        return int(state["epochs_done"])
