"""The child's side of `child.py`: call one function, print what came of it."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from purify_edge.doctor import native_cuda, native_engines
from purify_edge.doctor.child import MARK

NATIVE: dict[str, Callable[..., dict[str, Any]]] = {
    "driver": native_cuda.driver,
    "management": native_cuda.management,
    "library": native_cuda.library,
    "module": native_engines.module,
    "providers": native_engines.providers,
    "provider": native_engines.provider,
    "builder": native_engines.builder,
    "openvino_devices": native_engines.openvino_devices,
    "engine_names": native_engines.engine_names,
    "engine": native_engines.engine,
}


def main() -> None:
    """Call the function that the arguments name, with the rest of them."""
    function, *arguments = sys.argv[2:]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # a look at this machine is nobody else's business
    result: dict[str, Any] = {}
    failure = ""
    try:
        result = NATIVE[function](*arguments)
    except BaseException as error:  # SystemExit too: a package that ends the process on import is a finding
        failure = f"{type(error).__name__}: {error}"
    print(f"\n{MARK}{json.dumps({'result': result, 'failure': failure}, default=str)}", flush=True)
