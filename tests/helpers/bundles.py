"""Bundles with another file in them, and a manifest that fits."""

import hashlib
import json
import os
import shutil
from dataclasses import replace as altered
from pathlib import Path

import numpy as np

from purify_edge.bundle.golden import GoldenSplit, encode_golden, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.files import file_sha256
from purify_edge.stats import spread_of


def replace(bundle: Path, path: str, content: bytes, *, splits: dict[str, int] | None = None) -> None:
    """Put another file in, and its size and hash into the manifest, as whoever changes a bundle could."""
    (bundle / path).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    entries = [model["file"] for model in manifest["models"]] + [manifest["golden"]["file"]]
    (entry,) = (entry for entry in entries if entry["path"] == path)
    entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if splits:
        manifest["golden"]["splits"] = splits
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def keep_few(bundle: Path, count: int) -> None:
    """Leave so many images in each split of the golden set."""
    splits = {
        name: type(split)(*(getattr(split, field)[:count] for field in split.__dataclass_fields__))
        for name, split in load_golden(Bundle.open(bundle)).items()
    }
    replace(bundle, "golden.npz", encode_golden(splits), splits=dict.fromkeys(splits, count))


def overtaken(split: GoldenSplit, by: float) -> GoldenSplit:
    """A split whose reference has its second class first, by a fraction of what differs between images."""
    logits = split.defended.copy()
    second = logits.argsort(axis=1)[:, -2]
    logits[np.arange(len(logits)), second] = logits.max(axis=1) + by * spread_of(logits)
    return altered(split, defended=logits)


def cached(bundle: Path, cache: Path) -> Path:
    """A bundle as Hugging Face's cache holds it: a folder of links to files that are named by their hashes."""
    repository = cache / "models--acme--pair"
    snapshot, blobs = repository / "snapshots" / ("5" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
        blob, link = blobs / file_sha256(file), snapshot / file.relative_to(bundle)
        shutil.copy(file, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
