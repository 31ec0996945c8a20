"""Run a bundle's purifier and classifier on a device; torch-free.

The names below are imported when first used, so that commands start fast. So is `export`, which makes a bundle of two
PyTorch modules and needs the extra `export`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purify_edge.errors import BundleError, InputError, MissingError, PurifyError
    from purify_edge.pipeline.pipeline import Pipeline
    from purify_edge.pipeline.prediction import Prediction

__all__ = ["BundleError", "InputError", "MissingError", "Pipeline", "Prediction", "PurifyError"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        if name == "export":
            return _export()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Pipeline": "pipeline.pipeline", "Prediction": "pipeline.prediction"}.get(name, "errors")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def _export() -> Any:
    """Return `purify_export.export.export`, which needs the extra `export`.

    Raises:
        MissingError: the extra is not installed.
    """
    try:
        return importlib.import_module("purify_export.export").export
    except ModuleNotFoundError as error:
        from purify_edge.errors import MissingError

        raise MissingError(
            f"needs 'export': pip install 'purify-edge[export]' ({error.name} is not installed)"
        ) from error
