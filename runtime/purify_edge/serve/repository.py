"""The model repository: a bundle as a version of a model that Triton runs, and a model that asks it for an image."""

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.registry import computed_precisions
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_edge.images.arrays import as_batch
from purify_edge.images.pictures import png_of
from purify_edge.pipeline.sparing import require_threshold
from purify_edge.serve.config import (
    CONFIG,
    Serving,
    contract_of,
    health_config,
    native_config,
    pipeline_config,
)
from purify_edge.serve.deployment import HEALTH, write_start
from purify_edge.serve.triton import FILES, PIXELS, FileModel, HealthModel, PixelModel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def write_model(bundle: Bundle, repository: Path, serving: Serving) -> Path:
    """Write a version of a model, its health model, and `serve.sh`, which starts Triton; return the version's folder.

    The bundle is verified first, and by the server again. The version's folder appears whole; versions that are there
    stay.

    Raises:
        BundleError: a file of the bundle is damaged, or it has no served graph for a native model.
        InputError: the name, the version, the precision or the threshold to spare clean images by is not available, the
            model there takes or gives something else, or the repository cannot be written.
    """
    name = serving.name or bundle.manifest.name
    if not NAME.fullmatch(name) or name.endswith(HEALTH):
        raise InputError(
            f"a model cannot be called {name!r}; --name takes letters, digits, '_', '.' and '-', and does not end with "
            f"{HEALTH}"
        )
    config = _native(bundle, name, serving) if serving.native else _pipeline(bundle, name, serving)
    bundle.verify()
    model = repository / name
    try:
        model.mkdir(parents=True, exist_ok=True)
        version, there = _new_version(model, serving.version), model / CONFIG
        if there.is_file() and contract_of(there.read_text()) != contract_of(config):
            raise InputError(f"{model} takes or gives something else than this bundle; --name names another model")
        with _whole(model / str(version)) as partial:
            if serving.native:
                served = bundle.model("served", precision_of(bundle, serving))
                (partial / "model.onnx").write_bytes(bundle.read(served.file))
            else:
                shutil.copytree(bundle.path, partial / "bundle")
                runs = FileModel if serving.files else PixelModel
                (partial / "model.py").write_text(_code(runs, manifest_sha256=bundle.sha256))
        _write(model / "labels.txt", "".join(f"{label}\n" for label in bundle.manifest.class_names))
        image = _known_image(bundle, serving)
        if not serving.files:
            (model / "warmup").mkdir(exist_ok=True)
            with atomic(model / "warmup" / PIXELS) as temporary:
                temporary.write_bytes(image.tobytes())
        _write(there, config)
        _write_health(repository / (name + HEALTH), name, FILES if serving.files else PIXELS, image)
        write_start(repository)
    except OSError as error:
        raise InputError(f"{repository} cannot be written: {error.strerror}") from error
    return model / str(version)


def _pipeline(bundle: Bundle, name: str, serving: Serving) -> str:
    known = ("auto", *bundle.precisions("defended"), *sorted(computed_precisions()))
    if serving.precision not in known:
        raise InputError(f"{bundle.path} has no {serving.precision}; --precision is one of {', '.join(known)}")
    if serving.spare_clean:
        require_threshold(bundle)
    return pipeline_config(bundle.manifest, name, serving)


def _native(bundle: Bundle, name: str, serving: Serving) -> str:
    served = bundle.model("served", precision_of(bundle, serving))
    return native_config(bundle.manifest, name, serving, served, sha256=bundle.sha256)


def precision_of(bundle: Bundle, serving: Serving) -> str:
    """Return the precision of the served graph that a native model runs: the requested one, else float32.

    Raises:
        InputError: the bundle has no served graph, or none in that precision; or the choice does not go with another.
    """
    if serving.files or serving.engine != "auto":
        raise InputError("--native runs the served graph in the server itself: leave --files and --engine out")
    known = bundle.precisions("served")
    if not known:
        raise InputError(f"{bundle.path} has no served graph; purify-export --served float32 writes one")
    precision = "fp32" if serving.precision == "auto" else serving.precision
    if precision not in known:
        raise InputError(f"{bundle.path} has no served graph in {precision}; --precision is one of {', '.join(known)}")
    if serving.spare_clean != bundle.model("served", precision).spare_clean:
        raise InputError(
            f"the served graph of {bundle.path} "
            + (
                "does not spare clean images: export it with --spare-clean, or leave that out here"
                if serving.spare_clean
                else "spares clean images, which changes its answers: add --spare-clean, or export it without"
            )
        )
    return precision


def _new_version(model: Path, asked: int | None) -> int:
    known = {int(path.name) for path in model.iterdir() if path.name.isdecimal()}
    if asked is None:
        return max(known, default=0) + 1
    if asked in known:
        raise InputError(f"{model} has a version {asked}; leave --model-version out for the next one, {max(known) + 1}")
    return asked


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the name of another once it is complete, and leaves nothing otherwise."""
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _known_image(bundle: Bundle, serving: Serving) -> NDArray[np.generic]:
    """Return a golden image as the model takes it, `[1, ...]`; for a model of files uint8 `[bytes]`, a PNG."""
    pixels = next(iter(load_golden(bundle).values())).images[:1]
    if serving.native and bundle.model("served", precision_of(bundle, serving)).pixels == "float32":
        return as_batch(pixels, bundle.manifest.input)
    return np.frombuffer(png_of(pixels[0]), np.uint8) if serving.files else pixels


def _write_health(model: Path, asks: str, input_name: str, image: NDArray[np.generic]) -> None:
    if not (model / "1").is_dir():
        shape, dtype = ((1, 1), "object") if input_name == FILES else (image.shape, image.dtype.name)
        model.mkdir(exist_ok=True)
        with _whole(model / "1") as partial:
            (partial / "image").write_bytes(image.tobytes())
            code = _code(HealthModel, asks=asks, input_name=input_name, shape=shape, dtype=dtype)
            (partial / "model.py").write_text(code)
    _write(model / CONFIG, health_config(model.name))


def _code(runs: type, **values: object) -> str:
    lines = "".join(f"    {name} = {value!r}\n" for name, value in values.items())
    return f"from {runs.__module__} import {runs.__name__}\n\n\nclass TritonPythonModel({runs.__name__}):\n{lines}"


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)
