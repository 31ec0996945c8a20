"""The bundles that ship, opened by their names: in the package, or packed in one that an extra brings."""

import logging
import os
import secrets
import shutil
import tarfile
from importlib.util import find_spec
from pathlib import Path

from purify_edge.bundle.manifest import MANIFEST
from purify_edge.errors import BundleError, MissingError, reason
from purify_edge.files import file_sha256
from purify_edge.machine import user_folder

logger = logging.getLogger("purify_edge")

FOLDER = Path(__file__).parents[1] / "bundles"
PACKED = {"photos": "purify_photos"}
"""Bundles too large for the package, and the package of the extra of the same name that has each, compressed."""
ARCHIVE = "bundle.tar.xz"
EXPORT_ONLY = ("cifar10", "cifar10-adaptive", "fashion-mnist-adaptive", "fashion-mnist-tiny")
"""Pairs that are exported at a desk: the images of CIFAR-10 may not be passed on, and the others would enlarge it."""


def shipped_names() -> list[str]:
    """Return the names of the bundles that ship."""
    return sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))


def is_shipped(path: Path) -> bool:
    """Return whether a bundle lies in the package, so that nothing may be written into it."""
    return FOLDER in path.resolve().parents


def shipped_bundle(path: Path) -> Path:
    """Return the folder of the bundle that ships under this name; the path itself if it exists or is no bare name.

    Raises:
        BundleError: neither a path nor the name of a bundle that ships; or a packed one cannot be unpacked, or was and
            has no manifest any more.
        MissingError: the package of a packed one is not installed.
    """
    name = str(path)
    known = [*shipped_names(), *PACKED]
    if name in known and path.is_dir() and not (path / MANIFEST).exists():
        raise BundleError(
            f"{name} is a folder here, without {MANIFEST}, and hides the bundle {name} that ships; rename it, or run "
            "this in another folder"
        )
    if path.exists() or path.name != name:
        return path
    if name in shipped_names():
        return FOLDER / name
    if name in PACKED:
        return _unpack(name)
    if name in EXPORT_ONLY:
        data = " --data DIR" if name.startswith("cifar10") else ""
        raise BundleError(f"{name} does not ship as a bundle; purify-export {name}{data} writes bundles/{name}")
    raise BundleError(
        f"{name} is not a bundle: expected a folder that purify-export wrote, or one that ships: {', '.join(known)}"
    )


def is_unpacked(path: Path) -> bool:
    """Return whether a bundle lies where packed ones are unpacked to, so that it comes back once it is removed."""
    try:
        return path.parent == _cache()
    except FileNotFoundError:
        return False


def archive_of(name: str) -> Path:
    """Return the file of a packed bundle; in a checkout, that of the checkout.

    Raises:
        MissingError: its package is not installed.
    """
    package = Path(__file__).parents[2] / name / PACKED[name]
    if not package.is_dir():
        found = find_spec(PACKED[name])
        if found is None or found.origin is None:
            raise MissingError(f"the bundle {name} needs '{name}': pip install 'purify-edge[{name}]'")
        package = Path(found.origin).parent
    return package / ARCHIVE


def _unpack(name: str) -> Path:
    """Return the folder of a packed bundle; unpack it if this is the first time.

    It lies with the user's cached files, and its name tells of which archive it is.
    """
    archive = archive_of(name)
    try:
        folder = _cache() / f"{name}-{file_sha256(archive)[:16]}"
        if not folder.is_dir():
            _extract(archive, folder)
            logger.info("the bundle %s is unpacked to %s, once", name, folder)
    except Exception as error:  # the file system's, tarfile's, or lzma's, which a Python may lack
        raise BundleError(
            f"the bundle {name} cannot be unpacked ({reason(error)}); expected a whole archive and a writable folder: "
            f"install 'purify-edge[{name}]' anew, or name another folder for cached files in XDG_CACHE_HOME"
        ) from error
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} has no {MANIFEST} any more; remove this folder, and load {name} again")
    return folder


def _cache() -> Path:
    return user_folder("XDG_CACHE_HOME", ".cache") / "bundles"


def _extract(archive: Path, folder: Path) -> None:
    """Unpack an archive to a folder, whole or not at all, by this process or by one that is faster."""
    temporary = folder.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with tarfile.open(archive, "r:xz") as packed:
            packed.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python 3.11.2 has none
            packed.extractall(temporary)
        for path in temporary.rglob("*"):  # on the disk before it takes the name
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
