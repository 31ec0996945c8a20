"""The model repository: a bundle as a version of a model that Triton's Python backend runs."""

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.registry import computed_precisions
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_edge.serve.triton import FILES, PIXELS, FileModel, PixelModel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
CONFIG, START = "config.pbtxt", "serve.sh"
END_OF_CONTRACT = "# The rest may change from version to version.\n"

SCRIPT = """#!/bin/sh
# Starts Triton with this repository's models. Who has $PURIFY_ADMIN_KEY may load and unload models, all others are
# refused: over HTTP it is the header `admin-key`, over gRPC `triton-grpc-protocol-admin-key`.
set -eu
: "${PURIFY_ADMIN_KEY:?expected a secret, without which models could be replaced over the network}"
cd "$(dirname "$0")"
set -- --model-repository="$PWD" --model-control-mode=explicit --disable-auto-complete-config \\
    --http-restricted-api="model-repository,shared-memory,trace,logging:admin-key=$PURIFY_ADMIN_KEY" \\
    --grpc-restricted-protocol="model-repository,shared-memory,trace,logging:admin-key=$PURIFY_ADMIN_KEY" "$@"
for config in */config.pbtxt; do
    set -- --load-model="${config%/*}" "$@"
done
exec "${TRITONSERVER:-tritonserver}" "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is to be served.

    Attributes:
        name: of the model; None for the bundle's.
        version: its number; None for the next one.
        instances: processes, each with a pipeline of its own.
        max_batch: images that run together at most.
        engine: see `Pipeline.load`.
        precision: likewise.
        files: take image files in place of pixels.
    """

    name: str | None = None
    version: int | None = None
    instances: int = 1
    max_batch: int = 64
    engine: str = "auto"
    precision: str = "auto"
    files: bool = False


def write_model(bundle: Bundle, repository: Path, serving: Serving) -> Path:
    """Write a version of a model, and `serve.sh`, which starts Triton; return the version's folder.

    The bundle is verified first, and by the server again. The version's folder appears whole; versions that are there
    stay.

    Raises:
        BundleError: a file of the bundle is damaged.
        InputError: the name, the version or the precision cannot be had, the model there takes or gives something
            else, or the repository cannot be written.
    """
    name = serving.name or bundle.manifest.name
    if not NAME.fullmatch(name):
        raise InputError(f"a model cannot be called {name!r}; --name takes letters, digits, '_', '.' and '-'")
    known = ("auto", *bundle.precisions("defended"), *sorted(computed_precisions()))
    if serving.precision not in known:
        raise InputError(f"{bundle.path} has no {serving.precision}; --precision is one of {', '.join(known)}")
    bundle.verify()
    model = repository / name
    try:
        model.mkdir(parents=True, exist_ok=True)
        version = _new_version(model, serving.version)
        config, there = config_of(bundle.manifest, name, serving), model / CONFIG
        if there.is_file() and _contract(there.read_text()) != _contract(config):
            raise InputError(f"{model} takes or gives something else than this bundle; --name names another model")
        _write_version(bundle, model / str(version), FileModel if serving.files else PixelModel)
        _write(model / "labels.txt", "".join(f"{label}\n" for label in bundle.manifest.class_names))
        if not serving.files:
            _write_warmup(bundle, model / "warmup")
        _write(there, config)
        _write(repository / START, SCRIPT)
        (repository / START).chmod(0o755)
    except OSError as error:
        raise InputError(f"{repository} cannot be written: {error.strerror}") from error
    return model / str(version)


def _new_version(model: Path, asked: int | None) -> int:
    known = {int(path.name) for path in model.iterdir() if path.name.isdecimal()}
    if asked is None:
        return max(known, default=0) + 1
    if asked in known:
        raise InputError(f"{model} has a version {asked}; leave --model-version out for the next one, {max(known) + 1}")
    return asked


def _write_version(bundle: Bundle, version: Path, runs: type[PixelModel]) -> None:
    partial = version.with_name(f".{version.name}.{secrets.token_hex(4)}.partial")
    try:
        shutil.copytree(bundle.path, partial / "bundle")
        (partial / "model.py").write_text(
            f"from {runs.__module__} import {runs.__name__}\n\n\n"
            f"class TritonPythonModel({runs.__name__}):\n    manifest_sha256 = {bundle.sha256!r}\n"
        )
        partial.rename(version)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def _write_warmup(bundle: Bundle, folder: Path) -> None:
    """Write the image that each instance is run on before it serves: the first of the golden set."""
    folder.mkdir(exist_ok=True)
    first = next(iter(load_golden(bundle).values())).images[:1]
    with atomic(folder / PIXELS) as temporary:
        temporary.write_bytes(first.tobytes())


def config_of(manifest: Manifest, name: str, serving: Serving) -> str:
    """Return the model's config.pbtxt; what is above END_OF_CONTRACT is the same for all its versions."""
    contract = manifest.input
    pixels = f"[{contract.height}, {contract.width}, {contract.channels}]"
    outputs = [
        ("probabilities", "FP32", f'[{len(manifest.class_names)}]\n    label_filename: "labels.txt"'),
        ("label", "INT64", "[1]"),
        ("purified", "UINT8", pixels),
    ]
    if manifest.suspicion:
        outputs += [("suspicion", "FP32", "[1]"), ("suspicious", "BOOL", "[1]")]
    taken = (FILES, "STRING", "[1]") if serving.files else (PIXELS, "UINT8", pixels)
    warmup = "" if serving.files else _warmup(pixels)
    return (
        f'name: "{name}"\nbackend: "python"\n'
        + "".join(_tensor("input", *taken))
        + "".join(_tensor("output", *output) for output in outputs)
        + END_OF_CONTRACT
        + f"max_batch_size: {serving.max_batch}\n"
        "dynamic_batching { max_queue_delay_microseconds: 0 }\n"
        f"instance_group [{{ kind: KIND_CPU count: {serving.instances} }}]  # the pipeline takes a GPU by itself\n"
        "version_policy { latest { num_versions: 1 } }\n"
        + "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
            for key, value in (("engine", serving.engine), ("precision", serving.precision))
        )
        + warmup
    )


def _tensor(kind: str, name: str, dtype: str, dims: str) -> str:
    return f'{kind} {{\n    name: "{name}"\n    data_type: TYPE_{dtype}\n    dims: {dims}\n}}\n'


def _warmup(pixels: str) -> str:
    return (
        'model_warmup {\n    name: "golden"\n    batch_size: 1\n    inputs {\n'
        f'        key: "{PIXELS}"\n'
        f'        value {{ data_type: TYPE_UINT8 dims: {pixels} input_data_file: "{PIXELS}" }}\n    }}\n}}\n'
    )


def _contract(config: str) -> str:
    return config.partition(END_OF_CONTRACT)[0]
