"""The verdicts on engines, whose packages are real, broken or imitated."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from helpers.machines import write
from helpers.packages import HANG, SEGFAULT, host, install
from purify_edge.doctor.examine import verdict, verdicts
from purify_edge.doctor.findings import EngineVerdict
from purify_edge.doctor.host import Host

pytestmark = pytest.mark.once

# A package that looks like ONNX Runtime; {body} is what goes wrong in a session on the GPU, {output} what one gives.
FAKE_ONNXRUNTIME = """
import numpy as np
__version__ = "1.31.1"
class capi:
    class onnxruntime_pybind11_state:
        NotImplemented = NotImplementedError
class SessionOptions:
    def __init__(self): self.entries = {{}}
    def add_session_config_entry(self, key, value): self.entries[key] = value
class Node:
    name, type, shape = "x", "tensor(float)", [None, 1, 8, 8]
def get_available_providers(): return ["CUDAExecutionProvider", "CPUExecutionProvider"]
class InferenceSession:
    def __init__(self, graph, options, providers, disabled_optimizers):
        self.providers = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        if self.providers == ["CUDAExecutionProvider"]:
            assert options.entries["session.disable_cpu_ep_fallback"] == "1"
            self.open()
    def get_inputs(self): return [Node]
    get_outputs = get_inputs
    def get_providers(self): return self.providers
    def run(self, outputs, inputs):
        along = [2.0, *[3.0] * 6, 2.0]
        right = np.outer(along, along)[None, None].astype(np.float32)
        return [{output}]
    def open(self):
        {body}
"""


def on_cpu(machine: Host) -> EngineVerdict:
    return verdict("onnxruntime", "cpu", "cpu", machine)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the driver showed an Orin."""
    monkeypatch.setattr(Host, "compute_capabilities", ((8, 7),))


def test_the_real_onnxruntime_works(tmp_path: Path) -> None:
    found = on_cpu(host(tmp_path))
    assert (found.works, found.device, found.reason, found.remedy) == (True, "cpu", "", "")


@pytest.mark.parametrize("share", [0.0, 0.98])
def test_the_real_onnxruntime_with_its_library_cut_off(package: Path, tmp_path: Path, share: float) -> None:
    original = importlib.util.find_spec("onnxruntime")
    assert original and original.origin
    copy = package / "onnxruntime"
    shutil.copytree(Path(original.origin).parent, copy, ignore=shutil.ignore_patterns("tools", "transformers"))
    (library,) = (copy / "capi").glob("onnxruntime_pybind11_state*.so")
    os.truncate(library, int(library.stat().st_size * share))
    found = on_cpu(host(tmp_path))
    assert not found.works
    assert found.remedy == "pip uninstall -y onnxruntime && pip install 'purify-edge[cpu]'"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SEGFAULT, "the process was killed by SIGSEGV"),
        ("raise ImportError('libpython: bad')", "libpython: bad"),
        ("raise ImportError('numpy.core.multiarray failed to import')", "built for NumPy 1, NumPy 2 is installed"),
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')",
            "missing libgomp.so.1 (apt: libgomp1)",
        ),
        (
            'raise ImportError("/lib/libstdc++.so.6: version `GLIBCXX_3.4.32\' not found")',
            "built for a newer system than this one",
        ),
        ("__version__ = '1.31.1'", "has no attribute 'SessionOptions'"),
        (FAKE_ONNXRUNTIME.format(body="pass", output="0 * right"), "wrong numbers"),
        (FAKE_ONNXRUNTIME.format(body="pass", output="np.nan * right"), "wrong numbers"),
    ],
)
def test_an_onnxruntime_that_does_not_work(package: Path, tmp_path: Path, source: str, reason: str) -> None:
    install(package, "onnxruntime", source)
    found = on_cpu(host(tmp_path))
    assert not found.works
    assert reason in found.reason


def test_the_remedy_for_static_tls_names_the_library(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", "raise ImportError('/a/libgomp.so.1: cannot allocate memory in static TLS block')")
    found = on_cpu(host(tmp_path))
    assert found.reason.startswith("too many libraries with thread-local storage")
    assert found.remedy == "export LD_PRELOAD=/a/libgomp.so.1"


def test_an_onnxruntime_that_hangs(package: Path, tmp_path: Path) -> None:
    install(package, "onnxruntime", HANG)
    assert on_cpu(host(tmp_path, seconds=2)).reason == "no answer within 2 s"


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
    ],
)
@pytest.mark.usefixtures("with_gpu")
def test_a_gpus_session_that_does_not_really_run(package: Path, tmp_path: Path, body: str, reason: str) -> None:
    install(package, "onnxruntime", FAKE_ONNXRUNTIME.format(body=body, output="right"))
    assert on_cpu(host(tmp_path)).works
    found = verdict("onnxruntime-cuda", "gpu", "gpu", host(tmp_path))
    assert not found.works
    assert reason in found.reason


@pytest.mark.usefixtures("with_gpu")
def test_an_onnxruntime_without_cuda_is_replaced_but_on_no_jetson(tmp_path: Path) -> None:
    if not importlib.util.find_spec("onnxruntime") or importlib.util.find_spec("onnxruntime_gpu"):
        pytest.skip("needs the onnxruntime for CPUs")
    found = verdict("onnxruntime-cuda", "gpu", "gpu", host(tmp_path))
    assert found.reason.startswith("the onnxruntime that is here has no CUDAExecutionProvider")
    assert found.remedy == "pip uninstall -y onnxruntime && pip install 'purify-edge[gpu]'"
    write(tmp_path, "/etc/nv_tegra_release", "# R36 (release), REVISION: 4.3")
    assert verdict("onnxruntime-cuda", "gpu", "gpu", host(tmp_path)).remedy == ""  # PyPI has none for it


def test_without_a_gpu_nothing_is_to_be_installed_for_one(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "compute_capabilities", ())
    found = verdict("tensorrt", "gpu", "tensorrt", host(tmp_path))
    assert (found.reason, found.remedy) == ("no GPU that CUDA can use", "")
    install(package, "onnxruntime", FAKE_ONNXRUNTIME.format(body=SEGFAULT, output="right"))
    found = verdict("onnxruntime-cuda", "gpu", "gpu", host(tmp_path))
    assert found.reason == "the process was killed by SIGSEGV"


def test_every_engine_has_a_verdict_in_the_order_of_preference(tmp_path: Path) -> None:
    from purify_edge.engines.registry import ENGINES

    assert [found.name for found in verdicts(host(tmp_path))] == list(ENGINES)
