"""The config.pbtxt of each kind of model, in Triton's text form."""

from collections.abc import Mapping
from dataclasses import dataclass

from purify_edge.bundle.manifest import Manifest, ModelEntry
from purify_edge.serve.triton import FILES, PIXELS

CONFIG = "config.pbtxt"
END_OF_CONTRACT = "# The rest may change from version to version.\n"
BACKENDS = {"onnxruntime": "onnxruntime", "tensorrt": "onnxruntime", "openvino": "openvino"}
"""Triton's backend of each choice of `--native`; TensorRT builds its engine inside ONNX Runtime, on the device."""
ENGINE_CACHE = "engine-cache"
"""Where engines, which are code, are kept: in the repository, from which serve.sh starts the server."""
ASK = "ask"
"""The input of a health model."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is to be served.

    Attributes:
        name: of the model; None for the bundle's.
        version: its number; None for the next one.
        instances: processes, each with a pipeline of its own.
        max_batch: images that run together at most.
        engine, precision: see `Pipeline.load`.
        files: take image files in place of pixels.
        spare_clean: see `Pipeline.load`; adds the output `spared`.
        native: a key of BACKENDS, which runs the bundle's served graph in place of the pipeline; None for the pipeline.
    """

    name: str | None = None
    version: int | None = None
    instances: int = 1
    max_batch: int = 64
    engine: str = "auto"
    precision: str = "auto"
    files: bool = False
    spare_clean: bool = False
    native: str | None = None


def pipeline_config(manifest: Manifest, name: str, serving: Serving) -> str:
    """Return the config of a model that the Python backend runs.

    What is above END_OF_CONTRACT is the same for all versions of a model.
    """
    contract = manifest.input
    pixels = f"[{contract.height}, {contract.width}, {contract.channels}]"
    outputs = [
        _probabilities(manifest),
        ("label", "INT64", "[1]"),
        ("purified", "UINT8", pixels),
    ]
    if manifest.suspicion:
        outputs += [("suspicion", "FP32", "[1]"), ("suspicious", "BOOL", "[1]")]
    if serving.spare_clean:
        outputs.append(("spared", "BOOL", "[1]"))
    asked = {"engine": serving.engine, "precision": serving.precision, "spare_clean": str(serving.spare_clean).lower()}
    taken = (FILES, "STRING", "[1]") if serving.files else (PIXELS, "UINT8", pixels)
    return (
        _contract(name, "python", [taken], outputs)
        + _batching(serving)
        + f"instance_group [{{ kind: KIND_CPU count: {serving.instances} }}]  # the pipeline takes a GPU by itself\n"
        + _parameters(asked)
        + ("" if serving.files else _warmup("UINT8", pixels))
    )


def native_config(manifest: Manifest, name: str, serving: Serving, served: ModelEntry, *, sha256: str) -> str:
    """Return the config of a served graph that one of Triton's own backends runs.

    Args:
        manifest, name, serving: as of `pipeline_config`.
        served: the graph.
        sha256: of the bundle's manifest.
    """
    contract = manifest.input
    planes = f"[{contract.channels}, {contract.height}, {contract.width}]"
    pixels = f"[{contract.height}, {contract.width}, {contract.channels}]"
    taken = ("UINT8", pixels) if served.pixels == "uint8" else ("FP32", planes)
    outputs = [
        _probabilities(manifest),
        ("suspicion", "FP32", "[1]\n    reshape { shape: [] }"),
        ("purified", "FP32", planes),
    ]
    if served.spare_clean:
        outputs.append(("spared", "FP32", "[1]\n    reshape { shape: [] }"))
    threshold = {"suspicion_threshold": repr(manifest.suspicion.threshold)} if manifest.suspicion else {}
    kind = "KIND_GPU" if serving.native == "tensorrt" else "KIND_AUTO"
    return (
        _contract(name, BACKENDS[serving.native or ""], [(PIXELS, *taken)], outputs)
        + 'default_model_filename: "model.onnx"\n'
        + _batching(serving)
        + f"instance_group [{{ kind: {kind} count: {serving.instances} }}]\n"
        + (_accelerator() if serving.native == "tensorrt" else "")
        + _parameters({"manifest_sha256": sha256, "precision": served.precision, **threshold}, by_purify=True)
        + _warmup(*taken)
    )


def health_config(name: str) -> str:
    """Return the config of a model that asks another for an image."""
    taken, given = (ASK, "BOOL", "[1]"), ("healthy", "BOOL", "[1]")
    return (
        _contract(name, "python", [taken], [given])
        + "max_batch_size: 0\ninstance_group [{ kind: KIND_CPU count: 1 }]\n"
    )


def contract_of(config: str) -> str:
    """Return the part of a config that all versions of a model share."""
    return config.partition(END_OF_CONTRACT)[0]


Tensor = tuple[str, str, str]


def _contract(name: str, backend: str, inputs: list[Tensor], outputs: list[Tensor]) -> str:
    tensors = [("input", *of) for of in inputs] + [("output", *of) for of in outputs]
    texts = (
        f'{kind} {{\n    name: "{tensor}"\n    data_type: TYPE_{dtype}\n    dims: {dims}\n}}\n'
        for kind, tensor, dtype, dims in tensors
    )
    return f'name: "{name}"\nbackend: "{backend}"\n' + "".join(texts) + END_OF_CONTRACT


def _probabilities(manifest: Manifest) -> Tensor:
    return "probabilities", "FP32", f'[{len(manifest.class_names)}]\n    label_filename: "labels.txt"'


def _batching(serving: Serving) -> str:
    return (
        f"max_batch_size: {serving.max_batch}\n"
        "dynamic_batching { max_queue_delay_microseconds: 0 }\n"
        "version_policy { latest { num_versions: 1 } }\n"
    )


def _parameters(values: Mapping[str, str], *, by_purify: bool = False) -> str:
    prefix = "purify_edge." if by_purify else ""  # others are the backend's own
    return "".join(
        f'parameters {{ key: "{prefix}{key}" value {{ string_value: "{value}" }} }}\n' for key, value in values.items()
    )


def _accelerator() -> str:
    cache = {"trt_engine_cache_enable": "true", "trt_engine_cache_path": ENGINE_CACHE}
    values = "".join(f'            parameters {{ key: "{key}" value: "{value}" }}\n' for key, value in cache.items())
    return (
        "optimization {\n    execution_accelerators {\n        gpu_execution_accelerator : [ {\n"
        f'            name: "tensorrt"\n{values}        }} ]\n    }}\n}}\n'
    )


def _warmup(dtype: str, dims: str) -> str:
    return (
        'model_warmup {\n    name: "golden"\n    batch_size: 1\n    inputs {\n'
        f'        key: "{PIXELS}"\n'
        f'        value {{ data_type: TYPE_{dtype} dims: {dims} input_data_file: "{PIXELS}" }}\n    }}\n}}\n'
    )
