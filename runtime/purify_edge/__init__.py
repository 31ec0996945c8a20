"""Run a bundle's purifier and classifier on a device; torch-free.

The names below are imported when first used, so that commands start fast.
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
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Pipeline": "pipeline.pipeline", "Prediction": "pipeline.prediction"}.get(name, "errors")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
