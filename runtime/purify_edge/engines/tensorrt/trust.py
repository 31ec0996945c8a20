"""Which engines this user trusts: those built by this user, by their SHA-256.

A TensorRT engine is executable code: one that came from elsewhere is not deserialised. The hash in a manifest
proves nothing, for whoever made the engine wrote the manifest too.
"""

import logging
from pathlib import Path

from purify_edge.machine import user_folder

logger = logging.getLogger("purify_edge")


def _folder() -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state") / "engines-built-here"


def trust(sha256: str) -> None:
    """Remember an engine that was built here; where that cannot be written, it will be built again."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / sha256).touch(mode=0o600)
    except OSError as error:
        logger.info("cannot remember that this engine was built here (%s): it will be built again", error)


def is_trusted(sha256: str) -> bool:
    """Return whether this user built the engine."""
    try:
        return (_folder() / sha256).is_file()
    except OSError:
        return False
