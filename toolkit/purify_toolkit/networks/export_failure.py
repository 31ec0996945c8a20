"""Why a network cannot be exported: the layer, the line of its code, the reason and what to do, in one screen."""

import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from purify_edge.errors import reason

TORCH = str(Path(torch.__file__).parent)
LONGEST = 200

REMEDIES = {
    r"No ONNX function found": "ONNX has no such operator; put a layer of others in its place",
    r"data-dependent|item\(\)": "what is computed may not depend on the pixels' values; use torch.where, say",
    r"Constraints violated": "its code fixes the batch; use x.shape[0] itself, without len(), int() or a loop",
}
OTHERWISE = "torch.export must be able to trace it, with any batch size"


def described(error: Exception, module: nn.Module, trace: Callable[[], torch.export.ExportedProgram]) -> str:
    """Describe why the exporter failed, and where.

    Args:
        error: what it raised.
        module: the network.
        trace: does the exporter's first step alone.
    """
    causes = list(_chain(error))
    why = reason(causes[-1]).partition(" For more information")[0][:LONGEST]
    remedy = next((text for pattern, text in REMEDIES.items() if re.search(pattern, str(causes[-1]))), OTHERWISE)
    failed = re.search(r"translating node %(\w+)", "\n".join(map(str, causes)))
    return f"{_of_node(failed[1], trace()) if failed else _of_code(causes, module)}: {why}; {remedy}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_node(name: str, program: torch.export.ExportedProgram) -> str:
    """Name the layer and the line of a node that has no translation."""
    for node in program.run_decompositions().graph.nodes:
        if node.name == name:
            layer, kind = next(reversed(node.meta["nn_module_stack"].values()), ("", ""))
            lines = re.findall(r'File "(.+)", line (\d+)', node.meta.get("stack_trace") or "")
            own = [f"{file}:{line}" for file, line in lines if not file.startswith(TORCH)]
            return _place(layer, str(kind).rpartition(".")[2], own)
    return ""


def _of_code(causes: list[BaseException], module: nn.Module) -> str:
    """Name the innermost layer that was running, and the last line of code that is not torch's."""
    names = {id(part): name for name, part in module.named_modules()}
    layer, kind, own = "", "", list[str]()
    for frame, line in (step for cause in causes for step in traceback.walk_tb(cause.__traceback__)):
        owner, file = frame.f_locals.get("self"), frame.f_code.co_filename
        if names.get(id(owner)):
            layer, kind = names[id(owner)], type(owner).__name__
        if frame.f_code.co_name == "forward" and not file.startswith(TORCH):
            own.append(f"{file}:{line}")
    return _place(layer, kind, own)


def _place(layer: str, kind: str, lines: list[str]) -> str:
    return (f" in the layer {layer} ({kind})" if layer else "") + (f", {lines[-1]}" if lines else "")
