"""What the page `Try it` loads: ONNX Runtime Web, the models of a bundle that ships, and examples of its golden set."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import MANIFEST
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError, MissingError
from purify_edge.images.pictures import png_of

BUNDLE = "fashion-mnist"
ROLES = ("purifier", "classifier")
SPLITS = {"clean": "clean", "attacked": "adversarial"}
"""Word of the page -> split of the golden set."""
PACKAGE = "onnxruntime-web-1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def assets(cache: Path) -> dict[str, bytes]:
    """Return the files by their place in the site; npm's package is kept in the folder `cache`.

    Raises:
        MissingError: npm is not there, or cannot have the package.
        InputError: the package is not the one that is meant.
    """
    bundle = Bundle.open(BUNDLE)
    entries = [bundle.model(role, "fp32").file for role in ROLES]
    return {
        **{f"try/{name}": content for name, content in runtime(cache).items()},
        "try/NOTICE": (bundle.path.parent / "NOTICE").read_bytes(),
        f"try/bundle/{MANIFEST}": (bundle.path / MANIFEST).read_bytes(),
        **{f"try/bundle/{entry.path}": bundle.read(entry) for entry in entries},
        **{f"try/examples/{name}": content for name, content in examples(bundle).items()},
    }


def examples(bundle: Bundle) -> dict[str, bytes]:
    """Return the first golden image of each class, not chosen: as PNGs, clean and attacked, and a list of them."""
    golden = load_golden(bundle)
    labels = golden["clean"].labels.tolist()
    listed = [(labels.index(label), label) for label in sorted(set(labels))]
    pictures = {
        f"{place}-{word}.png": png_of(golden[split].images[place])
        for place, _ in listed
        for word, split in SPLITS.items()
    }
    facts = {
        "examples": [{"place": place, "label": label} for place, label in listed],
        "right": {word: _right(golden[split]) for word, split in SPLITS.items()},
    }
    return {**pictures, "examples.json": json.dumps(facts).encode()}


def _right(split: GoldenSplit) -> dict[str, int]:
    """Return how many images of a split PyTorch's classifier has right, alone and behind the purifier."""
    answers = {"alone": split.classifier, "purified": split.defended}
    right = {name: int(np.sum(logits.argmax(axis=1) == split.labels)) for name, logits in answers.items()}
    return {"images": len(split), **right}


def runtime(cache: Path) -> dict[str, bytes]:
    """Return the files of ONNX Runtime Web, from the package that npm gets, verified; see `assets`."""
    archive = cache / f"{PACKAGE}.tgz"
    if not archive.is_file():
        _fetch(cache)
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"{archive} is not the {PACKAGE} that was looked at; delete it, and build the site again")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member is not None
            found[name] = member.read()
    return found


def _fetch(cache: Path) -> None:
    """Let npm put the package into the folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError("the site needs npm to get ONNX Runtime Web: install Node.js (Debian: apt-get install npm)")
    cache.mkdir(parents=True, exist_ok=True)
    name, _, version = PACKAGE.rpartition("-")
    done = subprocess.run([npm, "pack", f"{name}@{version}"], cwd=cache, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"npm cannot have {name} {version}: {done.stderr.strip()}")
