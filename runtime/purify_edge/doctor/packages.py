"""The probe of packages, the engines' and those that read cameras: what is there, and whether it can work here."""

from collections.abc import Iterator
from functools import partial
from importlib import metadata

from purify_edge.doctor.child import printable
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host, numbers
from purify_edge.doctor.libraries import explain
from purify_edge.doctor.system import SYSTEM_TENSORRT

_package = partial(Finding, "packages")

# Each of these installs the module `onnxruntime`; two of them overwrite each other's files.
_KINDS = ("gpu", "openvino", "directml", "qnn", "rocm", "migraphx", "training")
ONNXRUNTIMES = ("onnxruntime", *(f"onnxruntime-{kind}" for kind in _KINDS), "ort-nightly", "ort-nightly-gpu")
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12"),
    "onnxruntime-cuda": ONNXRUNTIMES,
    "onnxruntime": ONNXRUNTIMES,
    "openvino": ("openvino",),
}
"""Engine -> the packages on PyPI that may have brought its library."""
OLDEST_ONNXRUNTIME = (1, 21)  # as in pyproject.toml
NO_GPU = "no GPU that CUDA can use"


def probe_packages(host: Host) -> Iterator[Finding]:
    """Look at ONNX Runtime, TensorRT, TensorRT for RTX, OpenCV and GStreamer; PyTorch is needed on no device."""
    yield from filter(None, (look(host) for look in (_onnxruntime, _tensorrt, _rtx, _opencv, _gstreamer)))


def installed(*names: str) -> dict[str, str]:
    """Return which of the named packages are installed, with their versions, from metadata alone."""
    found = {}
    for name in names:
        try:
            found[name] = printable(metadata.version(name) or "unknown")
        except Exception:  # damaged metadata raise many things; PackageNotFoundError is the usual one
            continue
    return found


def _onnxruntime(host: Host) -> Finding | None:
    found = installed(*ONNXRUNTIMES)
    name = "ONNX Runtime"
    value = ", ".join(f"{package} {version}" for package, version in found.items())
    extra = "gpu" if "onnxruntime-gpu" in found and not host.is_jetson else "cpu"
    install = f"'purify-edge[{extra}]'"
    if len(found) > 1:
        reason = "they install the same module and overwrite each other's files"
        remedy = f"pip uninstall -y {' '.join(found)} && pip install {install}"
        return _package(name, value, Status.PROBLEM, reason, remedy)
    if any((0,) < numbers(version) < OLDEST_ONNXRUNTIME for version in found.values()):
        reason = f"purify-edge needs {'.'.join(map(str, OLDEST_ONNXRUNTIME))} or newer"
        return _package(name, value, Status.WARNING, reason, f"pip install --upgrade {install}")
    return _package(name, value) if found else None


def _imported(module: str, name: str, host: Host) -> Finding | None:
    """Return what came of importing a module; None where it is not there."""
    answer = host.native("module", module)
    if not answer.failure:
        return _package(name, f"{printable(answer.result['version'])}, {printable(answer.result['file'])}")
    if answer.failure.startswith(f"ModuleNotFoundError: No module named '{module}'"):
        return None
    reason, remedy = explain(answer.text, host)
    return _package(name, "cannot be imported", Status.PROBLEM, reason, remedy)


def _tensorrt(host: Host) -> Finding | None:
    """Return what is known of TensorRT: where apt's is there, pip's is not what is missing."""
    name = "TensorRT"
    found = _imported("tensorrt", name, host)
    if found:
        return found
    if next(host.glob(SYSTEM_TENSORRT), None) is not None:
        reason = "apt's TensorRT is there, this environment does not show it: see System, environment"
        return _package(name, "hidden", Status.PROBLEM, reason)
    library = next(iter(host.native("library", "nvinfer").result.get("found", [])), None)
    if library:
        reason = f"{library} is there, its Python package is not"
        return _package(name, "none", Status.PROBLEM, reason, "sudo apt install python3-libnvinfer")
    if host.is_jetson:
        return _package(name, "none", Status.ABSENT, "not installed", "sudo apt install nvidia-jetpack")
    return None


def _rtx(host: Host) -> Finding | None:
    """Return whether TensorRT for RTX has code for the GPUs: it has none for those of Jetsons and data centres."""
    name = "TensorRT for RTX"
    supported = host.native("rtx_capabilities").result.get("capabilities", [])
    for index, capability in enumerate(host.compute_capabilities):
        found = ".".join(map(str, capability))
        if supported and found not in supported:
            reason = f"it has no code for compute capability {found} of GPU {index}, only for {', '.join(supported)}"
            remedy = "" if host.is_jetson else "pip install 'purify-edge[tensorrt]'"
            return _package(name, "not supported", Status.PROBLEM, reason, remedy)
    return _imported("tensorrt_rtx", name, host)


def _opencv(host: Host) -> Finding | None:
    """Return what OpenCV was built with; None where it is not there, as on a device that runs image files alone."""
    answer = host.native("opencv")
    if answer.failure.startswith("ModuleNotFoundError: No module named 'cv2'"):
        return None
    if answer.failure:
        reason, remedy = explain(answer.text, host)
        return _package("OpenCV", "cannot be imported", Status.PROBLEM, reason, remedy)
    words = [f"{'with' if there else 'without'} {name}" for name, there in answer.result["built"].items()]
    return _package("OpenCV", printable(", ".join([answer.result["version"], *words])))


def _gstreamer(host: Host) -> Finding | None:
    """Return what GStreamer reads; None where it is not there, unless this is a Jetson, which has it from NVIDIA."""
    answer = host.native("gstreamer")
    if answer.failure:
        if not host.is_jetson:
            return None
        remedy = "sudo apt install --reinstall nvidia-l4t-gstreamer"
        return _package("GStreamer", "none", Status.ABSENT, explain(answer.text, host)[0], remedy)
    version, decoder = printable(answer.result["version"]), answer.result["decoder"]
    if host.is_jetson and (missing := answer.result["missing_on_jetson"]):
        reason = f"without {', '.join(missing)}, which csi:// and decoding by hardware need"
        return _package(
            "GStreamer", version, Status.WARNING, reason, "sudo apt install --reinstall nvidia-l4t-gstreamer"
        )
    if not decoder:
        reason = "reads no rtsp://, for rtspsrc or a decoder of H.264 is missing: OpenCV does where it is installed"
        remedy = "sudo apt install gstreamer1.0-plugins-good gstreamer1.0-libav"
        return _package("GStreamer", version, Status.ABSENT, reason, remedy)
    return _package("GStreamer", f"{version}, rtsp:// decoded by {decoder}")
