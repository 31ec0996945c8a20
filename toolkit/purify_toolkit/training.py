"""The training loop: one stage after another, a checkpoint after each epoch, the same weights with or without a break.

Every random choice of an epoch comes from a generator seeded by run seed, stage and epoch, so a resumed
epoch repeats exactly what the interrupted one would have done (on a CPU; GPU kernels may differ in the last bits).
"""

import hashlib
import json
import pickle
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from purify_toolkit.errors import InputError, reason
from purify_toolkit.run_folder import RunFolder, atomic, save_state
from purify_toolkit.stages import Stage
from purify_toolkit.student import Batch


class Progress(Protocol):
    """What the loop tells of itself."""

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        """An epoch of so many units of work begins."""

    def advance(self, units: int, text: str) -> None:
        """So many units are done; `text` says what and with which losses."""


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
"""Of the recipe's key `optimizer`; each takes parameters, `lr` and `weight_decay`."""


def seeded(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the seed and on everything in `names`, and on nothing else."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Give the network its first weights, from `generator` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def batch_indices(count: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """A random order of `count` images in batches; a last, smaller batch is left out of all but a lone one."""
    batches = torch.randperm(count, generator=generator).split(batch_size)
    full = [batch for batch in batches if len(batch) == batch_size]
    return full or list(batches)


class Trainer:
    """Trains one stage of a run."""

    def __init__(
        self, stage: Stage, run: RunFolder, *, count: int, seed: int, device: torch.device, progress: Progress
    ) -> None:
        self._stage, self._run, self._count, self._seed = stage, run, count, seed
        self._device, self._progress = device, progress
        table = stage.optimizer
        self._steps = max(1, count // table.batch_size)
        initialise(stage.network, seeded(seed, stage.name, "initialise"))
        if stage.prepare is not None:
            stage.prepare()
        stage.network.to(memory_format=torch.channels_last)
        self._optimizer = OPTIMIZERS[table.optimizer](
            stage.network.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay
        )
        self._scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, table.learning_rate, total_steps=table.epochs * self._steps
        )

    def train(self) -> None:
        """Train from the last checkpoint, or from the start, to the end; write the weights."""
        first = self._resume()
        self._forget(first)
        for epoch in range(first, self._stage.optimizer.epochs):
            start = time.perf_counter()
            losses = self._epoch(epoch)
            self._stage.network.eval()
            line = {
                "stage": self._stage.name,
                "epoch": epoch,
                "losses": losses,
                "validation": self._validate(),
                "learning_rate": self._scheduler.get_last_lr()[0],
                "seconds": round(time.perf_counter() - start, 1),
            }
            with (self._run.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._save(epoch + 1)
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
        attack_generator = seeded(self._seed, stage.name, epoch, "attack", device=self._device)
        if stage.pool is not None:
            with self._mixed():
                for done in stage.pool.refresh(epoch, attack_generator):
                    self._progress.advance(done, "attacking")
        stage.network.train()
        sums: dict[str, float] = {}
        for indices in order:
            losses = self._step(Batch(indices, generator, attack_generator))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            self._progress.advance(len(indices), "  ".join(f"{name} {value:.4f}" for name, value in losses.items()))
        return {name: value / len(order) for name, value in sums.items()}

    def _step(self, batch: Batch) -> dict[str, float]:
        with self._mixed():
            losses = self._stage.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._optimizer.step()
        self._scheduler.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _mixed(self) -> torch.autocast:
        """The recipe's precision: convolutions in bfloat16, which needs no scaling of the loss, or all in float32."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._run.recipe.precision == "bfloat16")

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
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location=self._device)
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

    def _forget(self, first: int) -> None:
        """Drop metrics of epochs that will be repeated, and a line that was cut short."""
        path = self._run.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = [
            line
            for line in read_metrics(self._run)
            if not (line["stage"] == self._stage.name and line["epoch"] >= first)
        ]
        with atomic(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that was cut short by an interruption is left out."""
    lines = []
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
