"""Hugging Face's cache: a snapshot's files are links to the blobs of its repository, named by their hashes."""

from pathlib import Path

REPOSITORY = "models--"  # what the name of a repository's folder in the cache begins with


def blobs_beside(folder: Path) -> Path | None:
    """Return where the files of a folder in a snapshot lie; None for a folder elsewhere."""
    inside = folder.resolve()
    for snapshots in inside.parents:
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith(REPOSITORY):
            return snapshots.parent / "blobs"
    return None
