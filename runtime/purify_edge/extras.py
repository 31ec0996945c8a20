"""Libraries that an extra brings: imported when they are needed; any failure gives one kind of error."""

import importlib
import os
import sys
from typing import Any

from purify_edge.errors import MissingError, reason

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
"""Environment in which libraries tell nobody anything. ONNX Runtime's packages for Linux send the machine's and the
model's particulars to Microsoft from 1.29 on, unless this is set before the import."""
OPENVINO_TELEMETRY = "openvino_telemetry"
"""The package by which OpenVINO tells Intel that it was imported, and which writes into the home folder. OpenVINO does
without where it is not installed."""


def require_library(name: str, extra: str) -> Any:
    """Return a library, imported, which tells nobody of it.

    Args:
        name: the module.
        extra: the extra of purify-edge that brings it.

    Raises:
        MissingError: it is not installed, or its import fails in a way of its own.
    """
    silence()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(f"needs '{extra}': pip install 'purify-edge[{extra}]' ({error})") from error
    except Exception as error:  # a library without a home folder, a driver or a file of its own may raise anything
        raise MissingError(f"{name} is installed, and its import fails here ({reason(error)})") from error


def silence() -> None:
    """Turn off the telemetry of all libraries that are imported from now on."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(OPENVINO_TELEMETRY, None)  # type: ignore[arg-type]  # None: as if it were not installed
