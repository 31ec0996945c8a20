"""Native code that crashes, hangs, lies and prints: findings, never the doctor's end."""

import importlib.util
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from purify_runtime.doctor.child import call_native
from purify_runtime.doctor.findings import Finding, Status
from purify_runtime.doctor.graph import INPUT, OUTPUT, PROBE_GRAPH, right_answer
from purify_runtime.doctor.host import Host
from purify_runtime.doctor.packages import probe_onnxruntime, probe_openvino, probe_rtx, probe_tensorrt, probe_torch
from purify_runtime.engines import open_engine

SEGFAULT = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANG = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"

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


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others on the path."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(folder: Path, name: str, source: str, *, distribution: str = "", version: str = "1.0") -> None:
    """Write a package into a folder, with metadata under another name if so wished."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "__init__.py").write_text(source)
    if distribution:
        metadata = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")


def found(findings: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}  # type: ignore[attr-defined]


def host(tmp_path: Path, seconds: float = 60) -> Host:
    return Host(tmp_path, native_s=seconds)


def test_a_module_that_is_fine(package: Path) -> None:
    install(package, "fine", "__version__ = '1.2'\nprint('purify-doctor:nonsense'[:5])")
    outcome = call_native("module", "fine", limit_s=60)
    assert outcome.failure == ""
    assert outcome.result == {"version": "1.2", "file": str(package / "fine" / "__init__.py")}


def test_what_a_library_prints_and_how_it_ends_does_not_matter_once_there_is_an_answer(package: Path) -> None:
    source = (
        "import atexit, os, signal\n"
        "__version__ = '3'\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGSEGV))\n"
        "for line in ('purify-doctor:', 'purify-doctor:[]', 'purify-doctor:{}', '\\x00\\xff'):\n"
        "    atexit.register(print, line)\n"
    )
    install(package, "noisy", source)
    outcome = call_native("module", "noisy", limit_s=60)
    assert (outcome.failure, outcome.result["version"]) == ("", "3")


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        (SEGFAULT, "the process was killed by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "the process was killed by SIGILL"),
        ("import os; os.kill(os.getpid(), 40)", "the process was killed by signal 40"),
        ("raise ValueError('no\\n\\x1b[31mway')", "ValueError: no way"),
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
        (
            "import os, sys; print('a reason', file=sys.stderr); sys.stderr.flush(); os._exit(7)",
            "ended with 7 and no answer: a reason",
        ),
        ("import os; os.write(2, b'\\xff\\xfe\\n'); os._exit(1)", "ended with 1 and no answer"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_however_an_import_ends_there_is_one_line(package: Path, source: str, failure: str) -> None:
    install(package, "broken", source)
    outcome = call_native("module", "broken", limit_s=60)
    assert failure in outcome.failure
    assert outcome.failure.isprintable()
    assert outcome.result == {}


def test_a_hang_is_ended_with_all_its_children(package: Path) -> None:
    install(package, "hangs", HANG)
    start = time.monotonic()
    outcome = call_native("module", "hangs", limit_s=2)
    assert outcome.failure == "no answer within 2 s"
    assert time.monotonic() - start < 30  # the grandchild, which holds the pipe for a minute, was ended too


def test_a_child_that_ignores_signals_is_ended(package: Path) -> None:
    install(package, "stubborn", f"import signal; signal.signal({int(signal.SIGTERM)}, signal.SIG_IGN)\n{HANG}")
    assert call_native("module", "stubborn", limit_s=2).failure == "no answer within 2 s"


@pytest.mark.parametrize("executable", ["", None, "/nonexistent/python"])
def test_without_an_interpreter_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert call_native("module", "json", limit_s=60).failure.startswith("cannot start")


def test_the_child_finds_modules_where_we_do_and_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "planted", "")
    monkeypatch.chdir(tmp_path)
    assert "ModuleNotFoundError" in call_native("module", "planted", limit_s=60).failure


def test_a_folder_that_lost_its_files_is_no_module(package: Path, tmp_path: Path) -> None:
    (package / "tensorrt_rtx").mkdir()
    finding = found(probe_rtx(host(tmp_path)))["TensorRT for RTX"]
    if "ImportError" in finding.reason:  # else a real one further down the path is found
        assert "is an empty folder" in finding.reason


# The fakes of ONNX Runtime


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


# The graph


def test_the_probe_graph_gives_the_right_answer() -> None:
    with open_engine("onnxruntime", PROBE_GRAPH, source="probe") as engine:
        output = engine.run(np.ones((3, 1, 8, 8), np.float32))
    assert np.array_equal(output, np.broadcast_to(np.asarray(right_answer(), np.float32), (3, 1, 8, 8)))


def test_the_probe_graph_is_what_its_comment_says() -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    shape = ["batch", 1, 8, 8]
    nodes = [
        make.make_node("Conv", [INPUT, "weights"], ["sums"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make.make_node("Relu", ["sums"], [OUTPUT]),
    ]
    ends = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in (INPUT, OUTPUT)]
    weights = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "weights")
    graph = make.make_graph(nodes, "probe", ends[:1], ends[1:], [weights])
    opset = [make.make_opsetid("", 17)]
    model = make.make_model(graph, opset_imports=opset, ir_version=8, producer_name="purify-edge")
    assert model == onnx.load_from_string(PROBE_GRAPH)
    onnx.checker.check_model(model, full_check=True)


def test_the_answer_of_a_call_is_kept(package: Path, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    install(package, "counts", f"import pathlib; p = pathlib.Path({str(counter)!r}); p.open('a').write('x')")
    machine = host(tmp_path)
    assert machine.native("module", "counts") is machine.native("module", "counts")
    assert counter.read_text() == "x"
