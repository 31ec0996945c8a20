"""ONNX files: what they hold, and which of their inputs and outputs are the images and the logits."""

import ast
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.external_data_helper import uses_external_data

from purify_edge.errors import InputError, reason
from purify_toolkit.networks.weights import listed

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
CHANNELS = (1, 3, 4)


def read(name: str) -> ModelProto:
    """Return the graph of a file, with weights that lie beside it; raise InputError where it cannot be read."""
    try:
        return checked(onnx.load(name), name)
    except OSError as error:
        raise InputError(f"--classifier {name}: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # protobuf's errors share no base with the checker's
        raise InputError(f"--classifier {name} is no ONNX graph ({reason(error)})") from error


def parsed(content: bytes, source: str) -> ModelProto:
    """Return the graph that bytes hold."""
    return checked(onnx.load_model_from_string(content), source)


def checked(model: ModelProto, source: str) -> ModelProto:
    """Return a graph; raise InputError where it has operators that ONNX does not define."""
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    foreign -= {function.domain for function in model.functions}
    if foreign:
        raise InputError(
            f"{source} has operators of {listed(sorted(foreign))}, which not every engine knows; export it without "
            "optimisations for one engine"
        )
    onnx.checker.check_model(model)
    return model


def content_of(name: str, model: ModelProto) -> bytes:
    """Return a file's content; weights that lie beside it are put in."""
    alone = onnx.load(name, load_external_data=False)
    beside = any(uses_external_data(tensor) for tensor in alone.graph.initializer)
    content: bytes = model.SerializeToString() if beside else Path(name).read_bytes()
    return content


def metadata(model: ModelProto) -> dict[str, str]:
    """Return what the exporter wrote into a graph about it."""
    return {entry.key: entry.value for entry in model.metadata_props}


def class_names(model: ModelProto) -> tuple[str, ...]:
    """Return the names that Ultralytics writes into a graph, in the order of the outputs; none where there are none."""
    try:
        names = ast.literal_eval(metadata(model).get("names", "{}"))
        return tuple(str(names[key]) for key in sorted(names))
    except (ValueError, SyntaxError, TypeError):
        return ()


def dimensions(value: ValueInfoProto) -> list[int]:
    """Return a tensor's shape; 0 for what is not fixed."""
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def fixed_size(model: ModelProto) -> tuple[int, int] | None:
    """Return the height and width that a graph takes; None where it takes several, or no image."""
    shape = dimensions(image_input(model, "the graph"))
    if len(shape) != 4:
        return None
    height, width = shape[2:] if shape[1] in CHANNELS else shape[1:3]
    return (height, width) if height and width else None


def image_input(model: ModelProto, source: str) -> ValueInfoProto:
    """Return the input that takes the images; raise InputError where there are several."""
    weights = {tensor.name for tensor in model.graph.initializer}  # old graphs list them as inputs too
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise InputError(f"{source} has the inputs {_described(inputs)}, expected one, the images")
    found: ValueInfoProto = inputs[0]
    return found


def logits_output(model: ModelProto, source: str) -> ValueInfoProto:
    """Return the output that gives the logits: the only one, the one of that name, or the only one of `[N, K]` floats.

    Raises:
        InputError: there is no such output, or several.
    """
    outputs = list(model.graph.output)
    if len(outputs) > 1:
        outputs = [value for value in outputs if value.name == "logits"] or [
            value
            for value in outputs
            if value.type.tensor_type.elem_type in FLOATS and len(value.type.tensor_type.shape.dim) == 2
        ]
    if len(outputs) != 1 or outputs[0].type.tensor_type.elem_type not in FLOATS:
        raise InputError(
            f"{source} has the outputs {_described(model.graph.output)}, expected one of logits, floats [N, K]; export "
            "it with that one alone, or call it logits"
        )
    found: ValueInfoProto = outputs[0]
    return found


def _described(values: object) -> str:
    return listed(
        f"{value.name} {TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()} "
        f"{[one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]}"
        for value in values  # type: ignore[attr-defined]
    )
