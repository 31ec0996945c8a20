"""The files of a bundle's `integrations/`: what is filled into the templates beside this module."""

import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from string import Template

import onnx

from purify_edge.bundle.manifest import InputContract, Precision, SuspicionEntry
from purify_edge.errors import InputError
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.integrations.deepstream import COLOURS, configuration, deepstream_graph, labels

FOLDER = "integrations"
PLAIN = ("purify.cpp", "CMakeLists.txt")
CONFIG, SCRIPT = "config_infer_purify.txt", "trtexec.sh"


def check_channels(contract: InputContract) -> None:
    """Raise InputError where DeepStream has no format for the images."""
    if contract.channels not in COLOURS:
        raise InputError(
            f"--integrations is for images of 1 or 3 channels, which DeepStream has, not of {contract.channels}; "
            "leave it out"
        )


def integration_files(
    contract: InputContract,
    class_names: Sequence[str],
    suspicion: SuspicionEntry | None,
    graphs: dict[Precision, bytes],
    batch: tuple[int, int, int],
) -> Iterator[tuple[str, bytes]]:
    """Yield the path in the bundle and the content of each file.

    Args:
        contract: the bundle's.
        class_names: the bundle's.
        suspicion: the bundle's; None where it has none.
        graphs: precision -> served graph, which takes float32.
        batch: the smallest, usual and largest batch of engines.
    """
    threshold = suspicion.threshold if suspicion else None
    outputs: list[str] = []
    for precision, graph in graphs.items():
        model = deepstream_graph(onnx.load_model_from_string(graph), threshold)
        check_graph(model)
        outputs = [output.name for output in model.graph.output]
        yield f"{FOLDER}/deepstream.{precision}.onnx", model.SerializeToString(deterministic=True)
    filled = Template(_template(CONFIG)).substitute(configuration(contract, list(graphs), outputs, batch[0]))
    written = {
        CONFIG: filled,
        "labels.txt": labels(class_names, verdict=threshold is not None),
        SCRIPT: _template(SCRIPT) + "".join(_builds(contract, list(graphs), batch)),
        "purify_facts.h": facts(class_names, threshold),
        **{name: _template(name) for name in PLAIN},
    }
    for name, text in written.items():
        yield f"{FOLDER}/{name}", text.encode("utf-8", "replace")


def _template(name: str) -> str:
    return (files("purify_export.integrations") / name).read_text("utf-8")


def _builds(contract: InputContract, precisions: Sequence[Precision], batch: tuple[int, int, int]) -> Iterator[str]:
    """Yield the lines that build the engines."""
    image = f"{contract.channels}x{contract.height}x{contract.width}"
    names = zip(("min", "opt", "max"), batch, strict=True)
    shapes = " ".join(f"--{name}Shapes=images:{count}x{image}" for name, count in names)
    for folder, kind in (("models", "served"), (FOLDER, "deepstream")):
        for precision in precisions:
            name = f"{kind}.{precision}"
            yield (
                f'trtexec --onnx="$bundle/{folder}/{name}.onnx" --saveEngine={name}.engine --stronglyTyped '
                f"--skipInference {shapes}\n"
            )


def facts(class_names: Sequence[str], threshold: float | None) -> str:
    """Return purify_facts.h, which tells a program of an engine what the graph's metadata say."""
    names = "".join(f"    {_in_c(name)},\n" for name in class_names)
    return (
        "// What TensorRT's engines do not say of themselves; written by purify-export.\n#pragma once\n\n"
        f"inline constexpr const char* kClassNames[] = {{\n{names}}};\n"
        f"inline constexpr bool kHasThreshold = {json.dumps(threshold is not None)};\n"
        f"inline constexpr float kThreshold = static_cast<float>({threshold or 0.0!r});\n"
    )


def _in_c(text: str) -> str:
    r"""Return a string as C++ writes it, byte by byte where it is not plain ASCII.

    >>> print(_in_c('tête "à" 1'))
    "t\303\252te \042\303\240\042 1"
    """
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(k) if k in plain else f"\\{k:03o}" for k in text.encode("utf-8", "replace")) + '"'
