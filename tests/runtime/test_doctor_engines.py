"""The engines' packages, real, broken and imitated: what the doctor finds of each."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from helpers.findings import found
from helpers.packages import HANG, SEGFAULT, host, install
from purify_edge.doctor.findings import Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.packages import probe_onnxruntime, probe_openvino, probe_rtx, probe_tensorrt, probe_torch

# A package that looks like ONNX Runtime; {body} is what goes wrong.
FAKE_ONNXRUNTIME = """
__version__ = "1.31.1"
class SessionOptions:
    log_severity_level = 0
    def __init__(self): self.entries = {{}}
    def add_session_config_entry(self, key, value): self.entries[key] = value
def get_available_providers(): return ["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
class InferenceSession:
    def __init__(self, graph, options, providers, enable_fallback):
        self.providers, self.options = providers, options
        if providers == ["CUDAExecutionProvider"]:
            assert options.entries == {{"session.disable_cpu_ep_fallback": "1"}}
            self.open()
    def get_providers(self): return self.providers
    def run(self, outputs, inputs):
        import numpy as np
        along = [2.0, *[3.0] * 6, 2.0]
        return [np.outer(along, along)[None, None].astype(np.float32)]
    def open(self):
        {body}
"""


def test_the_real_onnxruntime_runs_the_graph(tmp_path: Path) -> None:
    findings = found(probe_onnxruntime(host(tmp_path)))
    assert findings["ONNX Runtime"].status is Status.OK
    assert findings["CPU"].value == "ran a small graph"
    assert "Azure" not in findings


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_the_real_onnxruntime_with_its_library_cut_off(package: Path, tmp_path: Path, share: float) -> None:
    original = importlib.util.find_spec("onnxruntime")
    assert original and original.origin
    copy = package / "onnxruntime"
    shutil.copytree(Path(original.origin).parent, copy, ignore=shutil.ignore_patterns("tools", "transformers"))
    (library,) = (copy / "capi").glob("onnxruntime_pybind11_state*.so")
    os.truncate(library, int(library.stat().st_size * share))
    finding = found(probe_onnxruntime(host(tmp_path)))["ONNX Runtime"]
    assert (finding.value, finding.status) == ("cannot be imported", Status.PROBLEM)
    assert finding.remedy == "pip uninstall -y onnxruntime && pip install 'purify-edge[cpu]'"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SEGFAULT, "the process was killed by SIGSEGV"),
        ("raise ImportError('libpython: bad')", "ImportError: libpython: bad"),
        ("raise ImportError('numpy.core.multiarray failed to import')", "built for NumPy 1, NumPy 2 is installed"),
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')",
            "missing libgomp.so.1 (apt: libgomp1)",
        ),
        (
            "raise ImportError('/a/b/libgomp-d22c30c5.so.1.0.0: cannot allocate memory in static TLS block')",
            "too many libraries with thread-local storage",
        ),
        (
            'raise ImportError("/lib/libstdc++.so.6: version `GLIBCXX_3.4.32\' not found")',
            "built for a newer system than this one",
        ),
    ],
)
def test_an_onnxruntime_that_cannot_be_imported(package: Path, tmp_path: Path, source: str, reason: str) -> None:
    install(package, "onnxruntime", source)
    findings = found(probe_onnxruntime(host(tmp_path)))
    assert findings["ONNX Runtime"].status is Status.PROBLEM
    assert reason in findings["ONNX Runtime"].reason
    assert set(findings) <= {"ONNX Runtime", "packages"}


def test_the_remedy_for_static_tls_names_the_library(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", "raise ImportError('/a/libgomp.so.1: cannot allocate memory in static TLS block')")
    assert found(probe_onnxruntime(host(tmp_path)))["ONNX Runtime"].remedy == "export LD_PRELOAD=/a/libgomp.so.1"


def test_an_onnxruntime_that_hangs(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", HANG)
    finding = found(probe_onnxruntime(host(tmp_path, seconds=2)))["ONNX Runtime"]
    assert (finding.status, finding.reason) == (Status.PROBLEM, "no answer within 2 s")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("self.providers = ['CPUExecutionProvider']", "ONNX Runtime fell back to CPUExecutionProvider"),
        (SEGFAULT, "killed by SIGSEGV"),
        (
            "raise RuntimeError('CUDA failure 209: no kernel image is available for execution')",
            "without code for this GPU",
        ),
        (
            "import sys; sys.stderr.write('Failed to load library libonnxruntime_providers_cuda.so with error: "
            "libcublasLt.so.12: cannot open shared object file: No such file or directory'); "
            "self.providers = ['CPUExecutionProvider']",
            "missing libcublasLt.so.12 (pip: nvidia-cublas-cu12, apt: cuda-toolkit-12)",
        ),
        (
            "import sys; sys.stderr.write('CUDA failure 35: CUDA driver version is insufficient ; GPU=0'); "
            "raise RuntimeError('fallback to CPU EP has been explicitly disabled by the user')",
            "CUDA failure 35: CUDA driver version is insufficient",
        ),
        ("self.run = lambda *_: [__import__('numpy').zeros((1, 1, 8, 8))]", "wrong numbers"),
        ("self.run = lambda *_: [__import__('numpy').full((1, 1, 8, 8), float('nan'))]", "wrong numbers"),
    ],
)
def test_a_provider_that_does_not_really_run(package: Path, tmp_path: Path, body: str, reason: str) -> None:
    install(package, "onnxruntime", FAKE_ONNXRUNTIME.format(body=body))
    findings = found(probe_onnxruntime(host(tmp_path)))
    assert findings["CPU"].value == "ran a small graph"
    assert findings["CUDA"].value == "does not run"
    assert reason in findings["CUDA"].reason
    assert "Azure" not in findings


def test_an_onnxruntime_without_its_functions(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", "__version__ = '1.31.1'")
    finding = found(probe_onnxruntime(host(tmp_path)))["providers"]
    assert finding.status is Status.PROBLEM
    assert "has no attribute 'get_available_providers'" in finding.reason


def test_a_provider_that_runs(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", FAKE_ONNXRUNTIME.format(body="pass"))
    assert found(probe_onnxruntime(host(tmp_path)))["CUDA"].value == "ran a small graph"


def test_two_packages_of_one_module_are_a_problem(package: Path, tmp_path: Path) -> None:
    install(
        package, "onnxruntime", FAKE_ONNXRUNTIME.format(body="pass"), distribution="onnxruntime-gpu", version="1.31.1"
    )
    finding = found(probe_onnxruntime(host(tmp_path)))["packages"]
    assert finding.status is Status.PROBLEM
    assert finding.value == "onnxruntime, onnxruntime-gpu"
    assert finding.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'purify-edge[gpu]'"


def test_an_old_onnxruntime_is_a_warning(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", FAKE_ONNXRUNTIME.format(body="pass").replace("1.31.1", "1.16.3"))
    finding = found(probe_onnxruntime(host(tmp_path)))["ONNX Runtime"]
    assert finding.status is Status.WARNING
    assert "1.21 or newer" in finding.reason


def test_damaged_metadata_do_no_harm(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", FAKE_ONNXRUNTIME.format(body="pass"))
    (package / "onnxruntime_gpu-1.0.dist-info").mkdir()
    (package / "onnxruntime_gpu-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\0")
    assert "CPU" in found(probe_onnxruntime(host(tmp_path)))


# TensorRT, OpenVINO, PyTorch

FAKE_TENSORRT = """
__version__ = {version!r}
class ILogger:
    class Severity: INTERNAL_ERROR, ERROR, WARNING = range(3)
    def __init__(self): pass
class Builder:
    def __init__(self, logger):
        logger.log(ILogger.Severity.WARNING, "not serious")
        logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
class Runtime(Builder): pass
"""


def test_a_tensorrt_without_a_gpu(package: Path, tmp_path: Path) -> None:
    install(package, "tensorrt", FAKE_TENSORRT.format(version="10.3.0"))
    findings = found(probe_tensorrt(host(tmp_path)))
    assert findings["TensorRT"].value == f"10.3.0, {package}/tensorrt/__init__.py"
    assert findings["builder"].reason == "CUDA initialization failure with error: 35"
    assert findings["runtime"].reason == "no GPU that CUDA can use"


def test_a_tensorrt_whose_builder_crashes_is_still_named(package: Path, tmp_path: Path) -> None:
    crash = f"class Builder:\n    def __init__(self, logger):\n        {SEGFAULT}\n"
    install(package, "tensorrt", FAKE_TENSORRT.format(version="10.3.0") + crash)
    findings = found(probe_tensorrt(host(tmp_path)))
    assert findings["TensorRT"].value.startswith("10.3.0")
    assert findings["builder"].reason == "the process was killed by SIGSEGV"


def test_a_tensorrt_that_apt_installed_and_the_environment_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / "tensorrt").exists()])
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    finding = found(probe_tensorrt(host(tmp_path)))["TensorRT"]
    assert (finding.value, finding.status) == ("hidden", Status.PROBLEM)


def test_the_dla_compilers_library_is_found_missing_on_a_jetson(package: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 5.0, GCID: 43688277\n")
    install(
        package, "tensorrt", "raise ImportError('libnvdla_compiler.so: cannot open shared object file: No such file')"
    )
    finding = found(probe_tensorrt(host(tmp_path)))["TensorRT"]
    assert finding.remedy == "sudo apt install nvidia-l4t-dla-compiler"


def test_the_real_tensorrt_rtx_tells_what_it_builds_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    outcome = host(tmp_path).native("builder", "tensorrt_rtx")
    assert {"75", "86", "89", "120"} <= set(outcome.result["capabilities"])
    findings = found(probe_rtx(host(tmp_path)))
    assert findings["builder"].value == "builds engines"


@pytest.mark.parametrize(("release", "remedy"), [("", "rtx"), ("# R36 (release), REVISION: 4.3", "")])
def test_a_tensorrt_rtx_that_cannot_be_imported(package: Path, tmp_path: Path, release: str, remedy: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release)
    install(package, "tensorrt_rtx", "raise ImportError('broken')")
    finding = found(probe_rtx(host(tmp_path)))["TensorRT for RTX"]
    assert (finding.value, finding.reason) == ("cannot be imported", "ImportError: broken")
    # no Jetson's GPU is among those it supports: nothing to install there
    assert finding.remedy == (f"pip uninstall -y tensorrt-rtx && pip install 'purify-edge[{remedy}]'" if remedy else "")


def test_a_tensorrt_whose_runtime_cannot_be_made_on_a_gpu_is_a_problem(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "compute_capabilities", ((8, 7),))
    install(package, "tensorrt", FAKE_TENSORRT.format(version="10.3.0"))
    findings = found(probe_tensorrt(host(tmp_path)))
    for name in ("builder", "runtime"):
        assert (findings[name].value, findings[name].status) == ("cannot be made", Status.PROBLEM)


def test_a_jetson_without_tensorrt_is_told_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / "tensorrt").exists()])
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    finding = found(probe_tensorrt(host(tmp_path)))["TensorRT"]
    assert (finding.status, finding.remedy) == (Status.ABSENT, "sudo apt install nvidia-jetpack")


def test_openvino(package: Path, tmp_path: Path) -> None:
    core = "__version__ = '2026.4'\nclass Core:\n    available_devices = {}\n"
    install(package, "openvino", core.format(["CPU", "NPU"]))
    assert found(probe_openvino(host(tmp_path)))["devices"].value == "CPU, NPU"
    install(package, "openvino", core.format([]))
    assert found(probe_openvino(host(tmp_path)))["devices"].status is Status.PROBLEM


def test_torch_is_never_imported(package: Path, tmp_path: Path) -> None:
    install(package, "torch", SEGFAULT, distribution="torch", version="2.14.1")
    assert found(probe_torch(host(tmp_path)))["PyTorch"].value == "2.14.1, not imported"
