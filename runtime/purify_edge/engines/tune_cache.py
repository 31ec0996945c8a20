"""What tuning found, remembered in this user's cache: for a device, its engines' versions, and a bundle's models."""

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import msgspec

from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.report import environment
from purify_edge.engines import ON_CPU
from purify_edge.engines.tensorrt.trust import user_folder
from purify_edge.engines.tune import BATCHES, TABLE, Choice, candidates, cores
from purify_edge.files import atomic

FORMAT = 2
"""Of what is remembered; of another format nothing is found."""
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "numpy")


def recall(manifest: Manifest, precision: str) -> dict[int, Choice] | None:
    """What was found before; None where nothing was, or what is remembered cannot be used."""
    try:
        content = _path(manifest, precision).read_bytes()
        choices = msgspec.json.decode(content, type=dict[int, Choice])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    known = candidates(ON_CPU, cores())
    settings = [setting for choice in choices.values() for setting in (choice.logits, choice.both)]
    usable = all(msgspec.structs.replace(setting, graph="composed") in known for setting in settings)
    chained = all(choice.both.graph == "chained" for choice in choices.values())
    return choices if usable and chained and set(choices) == set(BATCHES) else None


def remember(manifest: Manifest, precision: str, choices: Mapping[int, Choice]) -> str:
    """Keep what was found, for the next time; what to tell of it. Where it cannot be written, it is found again."""
    try:
        path = _path(manifest, precision)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(choices))
    except OSError as error:
        return f"cannot remember that ({error.strerror or error}), so it will be tuned again"
    return f"remembered in {path}"


def _path(manifest: Manifest, precision: str) -> Path:
    """Where it is kept: the name tells what it holds for, so that nothing stale is ever found.

    Raises:
        FileNotFoundError: the user has no home.
    """
    machine = environment({})
    about = {
        "format": FORMAT,
        "models": [[model.role, model.file.sha256] for model in manifest.models if model.precision == precision],
        "machine": [machine["processor"], machine["machine"], machine["system"], cores()],
        "versions": [_version(package) for package in PACKAGES],
        "table": TABLE,
    }
    name = hashlib.sha256(msgspec.json.encode(about)).hexdigest()[:32]
    return user_folder("XDG_CACHE_HOME", ".cache") / "tuned" / f"{name}.json"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
