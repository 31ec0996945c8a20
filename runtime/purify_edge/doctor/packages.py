"""The probes of the engines' packages: installed, importable, and what they can do with the GPUs that are here."""

import re
from collections.abc import Iterator

from purify_edge.doctor.child import Outcome
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.gpu import version_of
from purify_edge.doctor.host import Host
from purify_edge.doctor.libraries import explain, install_remedy, missing_reason
from purify_edge.doctor.system import SYSTEM_TENSORRT, installed
from purify_edge.doctor.text import first_line, numbers, printable

# Each of these installs the module `onnxruntime`; two of them overwrite each other's files.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
NO_GPU = "no GPU that CUDA can use"
REMOTE_PROVIDERS = ("AzureExecutionProvider",)  # run nothing here
NEED_A_GPU = ("tensorrt", "tensorrt_rtx")
OLDEST_ONNXRUNTIME = (1, 21)  # as in pyproject.toml

# TensorRT's major version -> the oldest compute capability. https://docs.nvidia.com/deeplearning/tensorrt/support-matrix
# 7.0 went with 10.5: https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-10/10.5.0.html
OLDEST_CAPABILITY = {10: (7, 5), 11: (7, 5)}


def probe_onnxruntime(host: Host) -> Iterator[Finding]:
    """ONNX Runtime and its execution providers, each really opened."""
    distributions = installed(*ONNXRUNTIMES)
    if len(distributions) > 1:
        yield _two_onnxruntimes(host, distributions)
    outcome = host.native("module", "onnxruntime")
    name = "ONNX Runtime"
    if outcome.failure:
        yield _failed_import("onnxruntime", name, outcome, host, "cpu", is_installed=bool(distributions))
        return
    version = printable(outcome.result["version"])
    if numbers(version) < OLDEST_ONNXRUNTIME:
        reason = f"purify-edge needs {'.'.join(map(str, OLDEST_ONNXRUNTIME))} or newer"
        extra = "gpu" if "onnxruntime-gpu" in distributions else "cpu"
        yield Finding("onnxruntime", name, version or "no version", Status.WARNING, reason, _pip(extra, upgrade=True))
    else:
        yield Finding("onnxruntime", name, f"{version}, {', '.join(distributions) or 'no metadata'}")
    yield from _providers(host)


def _pip(extra: str, *, upgrade: bool = False) -> str:
    return f"pip install {'--upgrade ' if upgrade else ''}'purify-edge[{extra}]'"


def _two_onnxruntimes(host: Host, distributions: dict[str, str]) -> Finding:
    wants_gpu = "onnxruntime-gpu" in distributions and not host.is_jetson
    remedy = f"pip uninstall -y {' '.join(distributions)} && {_pip('gpu' if wants_gpu else 'cpu')}"
    reason = "they install the same module and overwrite each other's files"
    return Finding("onnxruntime", "packages", ", ".join(distributions), Status.PROBLEM, reason, remedy)


def _failed_import(
    area: str, name: str, outcome: Outcome, host: Host, extra: str, *, is_installed: bool = False
) -> Finding:
    """A module that is not there, or that is and cannot be imported."""
    if not is_installed and outcome.failure.startswith("ModuleNotFoundError") and f"'{area}'" in outcome.failure:
        if area in NEED_A_GPU and not host.compute_capabilities:
            return Finding(area, name, "none", Status.ABSENT, f"not installed, and {NO_GPU}")
        return Finding(area, name, "none", Status.ABSENT, "not installed", _pip(extra) if extra else "")
    reason, remedy = explain(outcome.text, host)
    if not remedy and extra:
        packages = " ".join(installed(*ONNXRUNTIMES)) if area == "onnxruntime" else area.replace("_", "-")
        remedy = f"pip uninstall -y {packages or area} && {_pip(extra)}"
    return Finding(area, name, "cannot be imported", Status.PROBLEM, reason, remedy)


def _providers(host: Host) -> Iterator[Finding]:
    outcome = host.native("providers")
    if outcome.failure:
        reason, remedy = explain(outcome.text, host)
        yield Finding("onnxruntime", "providers", "cannot be listed", Status.PROBLEM, reason, remedy)
        return
    missing: dict[str, list[str]] = outcome.result["missing"]
    for provider in map(printable, outcome.result["providers"]):
        if provider not in REMOTE_PROVIDERS:
            lacks = missing.get(provider.removesuffix("ExecutionProvider").lower(), [])
            yield _provider(host, provider, lacks)


def _why(outcome: Outcome) -> str:
    """ONNX Runtime's own word for what failed: the exception often tells only the consequence, the log the cause."""
    causes = re.findall(r"(?:with error: |CUDA failure \d+: )[^;\n]+", f"{outcome.log}\n{outcome.failure}")
    return causes[0] if causes else outcome.failure


def _provider(host: Host, provider: str, missing: list[str]) -> Finding:
    name = provider.removesuffix("ExecutionProvider")
    outcome = host.native("provider", provider)
    if not outcome.failure:
        return Finding("onnxruntime", name, "ran a small graph")
    if missing:
        reason, remedy = missing_reason(missing, host), install_remedy(missing, host)
    else:
        reason, remedy = explain(f"{_why(outcome)}\n{outcome.log}", host)
    if not host.compute_capabilities and name != "CPU" and "killed" not in outcome.failure:
        return Finding("onnxruntime", name, "does not run", Status.ABSENT, f"{NO_GPU}; {reason}")
    return Finding("onnxruntime", name, "does not run", Status.PROBLEM, reason, remedy)


def probe_tensorrt(host: Host) -> Iterator[Finding]:
    """TensorRT: its Python package, its library, and whether it fits the GPUs."""
    area, name = "tensorrt", "TensorRT"
    outcome = host.native("module", area)
    if outcome.failure:
        yield _tensorrt_failed(host, outcome)
        return
    version = printable(outcome.result["version"])
    yield Finding(area, name, f"{version}, {printable(outcome.result['file'])}")
    oldest = OLDEST_CAPABILITY.get((numbers(version) or (0,))[0], (0, 0))
    for index, capability in enumerate(host.compute_capabilities):
        if capability < oldest:
            reason = f"compute capability {_dotted(capability)}; TensorRT {version} needs {_dotted(oldest)} or newer"
            yield Finding(area, f"GPU {index}", "not supported", Status.PROBLEM, reason)
    yield from _builder(host, area)


def _tensorrt_failed(host: Host, outcome: Outcome) -> Finding:
    """Where apt's TensorRT is there, pip's is not what is missing."""
    is_missing = outcome.failure.startswith("ModuleNotFoundError: No module named 'tensorrt'")
    if is_missing and next(host.glob(SYSTEM_TENSORRT), None) is not None:
        reason = "apt's TensorRT is there, this environment does not show it: see python, environment"
        return Finding("tensorrt", "TensorRT", "hidden", Status.PROBLEM, reason)
    library = next(iter(host.native("library", "nvinfer").result.get("found", [])), None)
    if is_missing and library:
        reason = f"{library['file']} {version_of('nvinfer', library['version'])} is there, its Python package is not"
        return Finding("tensorrt", "TensorRT", "none", Status.PROBLEM, reason, "sudo apt install python3-libnvinfer")
    if is_missing and host.is_jetson:
        remedy = "sudo apt install nvidia-jetpack"
        return Finding("tensorrt", "TensorRT", "none", Status.ABSENT, "not installed", remedy)
    return _failed_import("tensorrt", "TensorRT", outcome, host, "tensorrt")


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def probe_rtx(host: Host) -> Iterator[Finding]:
    """TensorRT for RTX, and whether it has code for the GPUs."""
    area, name = "tensorrt_rtx", "TensorRT for RTX"
    outcome = host.native("module", area)
    if outcome.failure:
        extra = "" if host.is_jetson else "rtx"  # no Jetson's GPU is among those it supports
        yield _failed_import(area, name, outcome, host, extra)
        return
    yield Finding(area, name, printable(outcome.result["version"]))
    built_for = host.native("builder", area).result.get("capabilities", [])
    supported = {(int(digits) // 10, int(digits) % 10) for digits in built_for if digits.isdigit()}
    for index, capability in enumerate(host.compute_capabilities):
        if supported and capability not in supported:
            names = ", ".join(map(_dotted, sorted(supported)))
            reason = f"compute capability {_dotted(capability)}; it has code for {names}"
            remedy = "" if host.is_jetson else _pip("tensorrt")
            yield Finding(area, f"GPU {index}", "not supported", Status.PROBLEM, reason, remedy)
    yield from _builder(host, area)


def _builder(host: Host, module: str) -> Iterator[Finding]:
    """Whether its builder and its runtime can be made."""
    outcome = host.native("builder", module)
    if outcome.failure:
        reason, remedy = explain(outcome.text, host)
        yield Finding(module, "builder", "cannot be made", Status.PROBLEM, reason, remedy)
        return
    reason = first_line("\n".join(map(str, outcome.result["log"])))
    failed = Status.PROBLEM if host.compute_capabilities else Status.ABSENT
    if outcome.result["builds"]:
        yield Finding(module, "builder", "builds engines")
    else:
        yield Finding(module, "builder", "cannot be made", failed, reason or "no reason given")
    if not host.compute_capabilities:  # its runtime can be made here all the same
        yield Finding(module, "runtime", "cannot run engines", Status.ABSENT, NO_GPU)
    elif not outcome.result["runs"]:
        yield Finding(module, "runtime", "cannot be made", Status.PROBLEM, reason or "no reason given")
    else:
        yield Finding(module, "runtime", "can be made")


def probe_openvino(host: Host) -> Iterator[Finding]:
    """OpenVINO and the devices that it sees."""
    outcome = host.native("module", "openvino")
    if outcome.failure:
        yield _failed_import("openvino", "OpenVINO", outcome, host, "")
        return
    yield Finding("openvino", "OpenVINO", printable(outcome.result["version"]))
    devices = host.native("openvino_devices")
    if devices.failure or not devices.result["devices"]:
        reason, remedy = explain(devices.text, host)
        yield Finding("openvino", "devices", "none", Status.PROBLEM, reason, remedy)
    else:
        yield Finding("openvino", "devices", ", ".join(map(printable, devices.result["devices"])))


def probe_torch(_: Host) -> Iterator[Finding]:
    """PyTorch, by its metadata alone: a device needs none, and importing it takes long."""
    versions = installed("torch")
    if versions:
        yield Finding("torch", "PyTorch", f"{versions['torch']}, not imported")
    else:
        yield Finding("torch", "PyTorch", "none", Status.ABSENT, "only training and exporting need it")
