"""A door for programs of `torch.export`, FILE.pt2."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from purify_edge.errors import InputError, reason
from purify_toolkit.networks.doors.opened import Opened, Wanted, read_file

KEPT = "classifier.pt2"
AGAIN = "torch.export.export(network.eval(), (images,), dynamic_shapes=({0: torch.export.Dim('batch')},))"


class ProgramNetwork(nn.Module):
    """An exported program as a module; it stays in the mode that it was exported in."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> "ProgramNetwork":
        """Do nothing to the program, which refuses to change its mode."""
        self.training = mode
        return self

    def forward(self, x_NCHW: Tensor) -> object:
        """Return what the program gives."""
        return self.program(x_NCHW)


@contextlib.contextmanager
def no_code() -> Iterator[None]:
    """Have torch.load unpickle tensors only, even if torch.export asks for more."""
    names = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}
    before = {name: os.environ.get(name) for name in names}
    try:
        _set(names)
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def opened(name: str, wanted: Wanted) -> Opened:
    """Load a program; raise InputError where it cannot be read, or takes anything but a batch of any size."""
    content = read_file(name)
    try:
        with no_code():
            program = torch.export.load(io.BytesIO(content))
    except Exception as error:  # the reader raises almost anything at a file that is not its own
        raise InputError(
            f"--classifier {name} is no program of torch.export ({reason(error)}); write it by torch.export.save"
        ) from error
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise InputError(f"--classifier {name} takes {len(inputs)} inputs, expected one, the images; {AGAIN}")
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    batch = shapes[str(inputs[0])][0]
    if isinstance(batch, int):
        raise InputError(f"--classifier {name} takes batches of {batch} only, expected any: export it by {AGAIN}")
    return Opened(network=ProgramNetwork(program.module()), has_weights=True, files={KEPT: content}, is_whole=True)
