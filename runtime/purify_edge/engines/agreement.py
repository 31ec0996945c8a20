"""Agreement: how often one way to run a bundle gives PyTorch's answers to the golden set, or ties with them, here.

It takes up to a second to find out, so it is remembered in the user's cache, under a hash of everything that it depends
on: the models, the golden set, the engine and its version, the settings, and the processor or GPU. What is remembered
cannot become wrong; at worst it is not found and measured again.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import LEAST_ANSWERS, LOSSLESS, Agreement
from purify_edge.engines.base import Array
from purify_edge.engines.models import Models
from purify_edge.errors import BuildError, PurifyError
from purify_edge.files import atomic
from purify_edge.images.arrays import as_batch
from purify_edge.machine import cores, processor, user_folder
from purify_edge.stats import TIE, agreeing, relative_error

SPLITS = ("clean", "adversarial")
PART = 64
LIMIT_S = {LOSSLESS: 0.2}
LOSSY_LIMIT_S = 1.0

Golden = Callable[[], Mapping[str, GoldenSplit]]


def agreement_of(models: Models, bundle: Bundle, golden: Golden, *, whole: bool = False) -> Agreement:
    """Return the agreement of models with the golden set: what is remembered, else measured now and remembered.

    Args:
        models: the models, run one way.
        bundle: whose models they are.
        golden: loads the golden set, where it is needed.
        whole: measure on all of it, even at a slow moment; else on what a second or less allows.

    Raises:
        BundleError, MissingError, BuildError: see `open_model` and `load_golden`.
    """
    path = _path(models, bundle)
    found = _recall(path)
    if found is None:
        limit_s = math.inf if whole else LIMIT_S.get(models.setup.precision, LOSSY_LIMIT_S)
        found = _measure(models, bundle, golden(), limit_s)
        if found.n >= LEAST_ANSWERS or models.setup.precision == LOSSLESS:  # else a slow moment would be remembered
            _remember(path, found)
    return found


def _measure(models: Models, bundle: Bundle, golden: Mapping[str, GoldenSplit], limit_s: float) -> Agreement:
    deadline = time.monotonic() + limit_s
    splits = [golden[name] for name in SPLITS if name in golden]
    outputs, references = [], []
    runs = [models.pair.logits, *([models.logits] if models.setup.is_composed else [])]  # predictions, and labels
    for start in range(0, max(map(len, splits)), PART):
        for split in splits:
            images = split.images[start : start + PART]
            if len(images):
                x = as_batch(images, bundle.manifest.input)
                outputs.append(np.stack([_run(run, x, models) for run in runs]))
                references.append(split.defended[start : start + PART])
        if time.monotonic() > deadline:
            break
    output, reference = np.concatenate(outputs, axis=1), np.concatenate(references)
    said = np.where(np.isfinite(output).all(axis=2), output.argmax(axis=2), -1)
    same = np.all([agreeing(classes, reference) for classes in said], axis=0)
    error = max(relative_error(logits, reference) for logits in output)
    return Agreement(n=len(same), same=int(same.sum()), error=error if np.isfinite(output).all() else math.nan)


def _run(run: Callable[[Array], Array], x: Array, models: Models) -> Array:
    try:
        return run(x)
    except PurifyError:
        raise
    except Exception as error:  # engines' exceptions share no base but Exception
        raise BuildError(f"{models.setup} cannot run the golden set: {error}") from error


def _path(models: Models, bundle: Bundle) -> Path | None:
    """Return where the agreement is remembered; None for a user without a home, and for a device without a name."""
    manifest, setup = bundle.manifest, models.setup
    engine = models.engine("classifier")
    if processor() == "unknown" or (engine.device != "cpu" and "(" not in engine.device):
        return None
    about = [
        [[model.role, model.file.sha256] for model in manifest.models if model.precision == setup.graphs],
        manifest.golden.file.sha256,
        [setup.engine, setup.precision, setup.cores, engine.version, engine.device],
        [processor(), cores(), np.__version__, TIE],
    ]
    name = hashlib.sha256(msgspec.json.encode(about)).hexdigest()[:32]
    try:
        return user_folder("XDG_CACHE_HOME", ".cache") / "agreement" / f"{name}.json"
    except FileNotFoundError:
        return None


def _recall(path: Path | None) -> Agreement | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Agreement) if path else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _remember(path: Path | None, found: Agreement) -> None:
    try:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic(path) as temporary:
                temporary.write_bytes(msgspec.json.encode(found))
    except OSError:
        pass  # it is measured again
