"""The bundles that ship with the package, opened by their names."""

from pathlib import Path

from purify_edge.errors import BundleError

FOLDER = Path(__file__).parents[1] / "bundles"
EXPORT_ONLY = ("cifar10", "cifar10-adaptive", "fashion-mnist-adaptive")
"""Pairs that are exported at a desk: the images of CIFAR-10 may not be passed on, and the last one is too large."""


def shipped_names() -> list[str]:
    """Return the names of the bundles that ship."""
    return sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))


def is_shipped(path: Path) -> bool:
    """Return whether a bundle came with the package, so that nothing may be written into it."""
    return FOLDER in path.resolve().parents


def shipped_bundle(path: Path) -> Path:
    """Return the folder of the bundle that ships under this name; the path itself if it exists or is no bare name.

    Raises:
        BundleError: neither a path nor the name of a bundle that ships.
    """
    name = str(path)
    if path.exists() or path.name != name:
        return path
    if name in shipped_names():
        return FOLDER / name
    if name in EXPORT_ONLY:
        data = " --data DIR" if name.startswith("cifar10") else ""
        raise BundleError(f"{name} does not ship as a bundle; purify-export {name}{data} writes bundles/{name}")
    raise BundleError(
        f"{name} is not a bundle: expected a folder that purify-export wrote, or one that ships: "
        f"{', '.join(shipped_names())}"
    )
