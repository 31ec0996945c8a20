"""Questions to the engines' Python packages. Runs in a child process: importing one may crash, hang or never return."""

import contextlib
import importlib
from pathlib import Path
from typing import Any

from purify_edge.doctor.elf import missing_libraries
from purify_edge.doctor.graph import INPUT, OUTPUT, PROBE_GRAPH, right_answer

CPU = "CPUExecutionProvider"
WARNINGS = 2  # ONNX Runtime's log severity for warnings: it says there why a provider could not be made


def module(name: str) -> dict[str, Any]:
    """Import a module: its version and its file.

    Raises:
        Exception: whatever the import raises.
    """
    imported = importlib.import_module(name)
    file = getattr(imported, "__file__", None)
    if file is None:  # a namespace package: a folder that lost its files, after an uninstallation say
        raise ImportError(f"{name} is an empty folder, not a package: {', '.join(map(str, imported.__path__))}")
    return {"version": str(getattr(imported, "__version__", "")), "file": str(file)}


def _onnxruntime() -> Any:
    """ONNX Runtime, with the CUDA libraries loaded that pip installed."""
    onnxruntime = importlib.import_module("onnxruntime")
    if hasattr(onnxruntime, "preload_dlls") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()
    return onnxruntime


def providers() -> dict[str, Any]:
    """The execution providers that ONNX Runtime was built with, and the shared libraries that each of them misses."""
    onnxruntime = _onnxruntime()
    folder = Path(onnxruntime.__file__).parent / "capi"
    missing = {}
    for file in sorted(folder.glob("libonnxruntime_providers_*.so")):
        with contextlib.suppress(OSError, ValueError):  # a damaged one: opening it will tell
            missing[file.stem.rpartition("_")[2]] = missing_libraries(file)
    return {"providers": list(onnxruntime.get_available_providers()), "missing": missing}


def provider(name: str) -> dict[str, Any]:
    """Run the probe graph on one execution provider, and on it alone.

    Raises:
        RuntimeError: the session runs on another one, or gives wrong numbers.
        Exception: whatever ONNX Runtime raises.
    """
    import numpy as np

    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = WARNINGS
    if name != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(PROBE_GRAPH, options, providers=[name], enable_fallback=0)
    given = list(session.get_providers())
    if given[:1] != [name]:
        raise RuntimeError(f"asked for {name}, ONNX Runtime fell back to {', '.join(given)}")
    (output,) = session.run([OUTPUT], {INPUT: np.ones((1, 1, 8, 8), np.float32)})
    _check(output)
    return {}


def builder(name: str) -> dict[str, Any]:
    """What TensorRT, or TensorRT for RTX, can do here.

    The result has `builds` and `runs`, whether its builder and its runtime could be made; `log`, what it said of
    that; `capabilities`, the compute capabilities that it builds for, where it tells them.
    """
    trt = importlib.import_module(name)
    log: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # the base is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR}:
                log.append(message)

    logger = Logger()
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return {
        "builds": _can(lambda: trt.Builder(logger), log),
        "runs": _can(lambda: trt.Runtime(logger), log),
        "log": log,
        "capabilities": [name.removeprefix("SM") for name in names if name.startswith("SM")],
    }


def _can(make: Any, log: list[str]) -> bool:
    try:
        return make() is not None
    except Exception as error:  # pybind raises TypeError where CUDA cannot be initialised
        log.append(f"{type(error).__name__}: {error}")
        return False


def openvino_devices() -> dict[str, Any]:
    """The devices that OpenVINO sees: CPU, GPU, NPU."""
    return {"devices": list(importlib.import_module("openvino").Core().available_devices)}


def engine_names() -> dict[str, Any]:
    """What `--engine` takes, fastest first."""
    from purify_edge.engines.registry import ENGINES

    return {"names": list(ENGINES)}


def engine(name: str) -> dict[str, Any]:
    """Run the probe graph on one of purify-edge's engines, as `purify-run --engine NAME` would.

    Raises:
        PurifyError: the engine cannot be had here.
        RuntimeError: it gives wrong numbers.
    """
    import numpy as np

    from purify_edge.engines.registry import open_engine

    with open_engine(name, PROBE_GRAPH, source="the doctor's probe graph") as opened:
        _check(opened.run(np.ones((1, 1, 8, 8), np.float32)))
        return {"device": opened.device, "version": opened.version}


def _check(output: Any) -> None:
    import numpy as np

    difference = float(np.abs(output - np.asarray(right_answer(), np.float32)).max())
    if not difference < 1e-3:
        raise RuntimeError(f"wrong numbers: off by {difference:g} in a convolution of small integers")
