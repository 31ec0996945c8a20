"""More processes than one: each takes its share of every batch, and together they compute what one alone would.

A launcher (`torchrun`, `accelerate launch`) starts the processes and says so in the environment. Every process
draws the random numbers of the whole batch and uses those of its share, gradients are averaged by
DistributedDataParallel, and batch normalisation takes its statistics over the whole batch. So the number of processes
changes results by no more than the rounding of sums. Hugging Face Accelerate sets the processes up; it is imported
where there are several.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from purify_edge.errors import InputError

PATIENCE = timedelta(hours=2)  # of the others while the main process validates; a launcher ends all when one fails


class Processes:
    """The processes of a training, which is this one alone.

    Attributes:
        index: of this process.
        count: of all.
        local_count: of those on this device's memory: on a CPU all of this machine.
        device: of this process.
    """

    index = 0
    count = 1
    local_count = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this one writes, tells and judges for all."""
        return self.index == 0

    @property
    def share(self) -> slice:
        """Of the images of a batch those that fall to this process: every `count`-th."""
        return slice(self.index, None, self.count)

    def wrap(self, losses: nn.Module, network: nn.Module) -> nn.Module:
        """Return a module whose backward pass trains `network`, a part of `losses`, on all processes' images."""
        return losses

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes of a tensor that each has."""
        return values

    def from_owner(self, tensor: Tensor, owner: int) -> Tensor:
        """Return what the process `owner` passes; the others pass a tensor of the same shape and type."""
        return tensor

    def wait(self) -> None:
        """Wait until all processes are here."""

    def one_first(self) -> AbstractContextManager[Any]:
        """Return a context that the first process of each machine enters before the others do."""
        return nullcontext()

    def close(self) -> None:
        """Leave the group of processes."""


class _Launched(Processes):
    """The processes that a launcher started."""

    def __init__(self, device: torch.device) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs

        # The buffers are those of batch normalisation, alike everywhere.
        settings = [InitProcessGroupKwargs(timeout=PATIENCE)]
        self._accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=settings)
        super().__init__(self._accelerator.device)
        self.index, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.local_count = int(os.environ.get("LOCAL_WORLD_SIZE", self.count)) if device.type == "cpu" else 1

    def wrap(self, losses: nn.Module, network: nn.Module) -> nn.Module:
        share_statistics(network)
        wrapped: nn.Module = self._accelerator.prepare_model(losses)
        return wrapped

    def mean(self, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.count

    def from_owner(self, tensor: Tensor, owner: int) -> Tensor:
        sent = tensor.to(self.device, copy=True).contiguous()  # NCCL knows no tensors of the CPU
        distributed.broadcast(sent, owner)
        return sent.to(tensor.device)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def one_first(self) -> AbstractContextManager[Any]:
        first: AbstractContextManager[Any] = self._accelerator.local_main_process_first()
        return first

    def close(self) -> None:
        self._accelerator.end_training()


def find_processes(device: torch.device) -> Processes:
    """Return this process alone, or those of the launcher that started it; on CUDA each takes a GPU of its own.

    Raises:
        InputError: several processes on a device of which there is one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device)
    if device.type not in ("cpu", "cuda") or device.index is not None:
        raise InputError(f"several processes cannot share {device}; --device cuda gives each its GPU, or take cpu")
    return _Launched(device)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose training statistics are those of all processes' images.

    `y = (x - m) / sqrt(v + eps) * weight + bias`, `m` and `v` mean and variance over the whole batch, as Ioffe and
    Szegedy 2015 (arXiv 1502.03167). torch's SyncBatchNorm does the same, but refuses the CPU. Parameters, buffers
    and their names are those of BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """Map `[N, C, H, W] -> [N, C, H, W]`; N may differ from process to process."""
        if not self.training:
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce  # absent where torch is built without

        x = input.to(self.weight.dtype)  # in mixed precision it is bfloat16
        count = torch.full((1,), x.numel() // x.shape[1], dtype=x.dtype, device=x.device)
        sums = all_reduce(torch.cat([x.sum((0, 2, 3)), count]))
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = x - mean.view(1, -1, 1, 1)
        variance = all_reduce(centred.square().sum((0, 2, 3))) / total
        self._keep(mean.detach(), variance.detach() * total / (total - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        output = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        normalised: Tensor = output.to(input.dtype)
        return normalised

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        assert self.momentum and self.running_mean is not None and self.running_var is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


def share_statistics(network: nn.Module) -> None:
    """Give every BatchNorm2d of a network the statistics of all processes; its tensors stay the same objects."""
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum).train(child.training)
            shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            setattr(network, name, shared)
        else:
            share_statistics(child)
