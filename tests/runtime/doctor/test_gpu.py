"""The driver, CUDA and cuDNN, in whose place stand stubs, and what they mean for the engines."""

import shutil
import sys
from pathlib import Path

import pytest

from helpers.findings import found
from helpers.machines import UBUNTU, write
from helpers.stub_libraries import DRIVER, EMPTY, ORIN, Compile, needs_a_compiler
from purify_edge.doctor.findings import Status
from purify_edge.doctor.gpu import CUDA_ERRORS, probe_cuda, probe_gpu
from purify_edge.doctor.host import Host
from purify_edge.doctor.packages import probe_packages

# The driver and its GPUs


@needs_a_compiler
def test_the_driver_and_its_gpu_are_described(build: Compile, tmp_path: Path) -> None:
    build("libcuda.so.1", DRIVER.format(**ORIN | {"name": "\\033[31mOrin"}))
    findings = found(probe_gpu(Host(tmp_path)))
    assert findings["driver"].value == "for CUDA up to 12.6"
    assert findings["GPU 0"].value == "Orin, compute capability 8.7, 8.0 GiB, integrated"
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile-u64)"
    write(tmp_path, "/proc/driver/nvidia/version", f"{line}  Tue Jan  7 17:34:26 PST 2025\nGCC version: gcc\n")
    assert found(probe_gpu(Host(tmp_path)))["driver"].value == "540.4.0, for CUDA up to 12.6"


@needs_a_compiler
@pytest.mark.parametrize("error", [*CUDA_ERRORS, 12345])
def test_a_driver_that_does_not_start_is_explained(build: Compile, tmp_path: Path, error: int) -> None:
    build("libcuda.so.1", DRIVER.format(**ORIN | {"error": error}))
    finding = found(probe_gpu(Host(tmp_path)))["driver"]
    assert finding.status is Status.PROBLEM
    meaning = CUDA_ERRORS.get(error, ("the driver does not start", ""))[0]
    assert finding.reason == f"CUDA_ERROR_BY_STUB: {meaning}"


@needs_a_compiler
def test_a_container_without_gpus_is_told_how_to_start(build: Compile, tmp_path: Path) -> None:
    build("libcuda.so.1", DRIVER.format(**ORIN | {"error": 100, "nameless": 1}))
    write(tmp_path, "/.dockerenv", "")
    finding = found(probe_gpu(Host(tmp_path)))["driver"]
    assert finding.reason.startswith("error 100: this container was started without GPUs")
    assert finding.remedy == "docker run --gpus all IMAGE"


@needs_a_compiler
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("#include <signal.h>\nint cuDriverGetVersion(int *v) { return raise(SIGSEGV); }", "killed by SIGSEGV"),
        ("int unrelated;", "undefined symbol: cuDriverGetVersion"),
        ("int cuDriverGetVersion(int *v) { for (;;); }", "no answer within 2 s"),
    ],
)
def test_a_driver_that_is_broken_is_a_finding(build: Compile, tmp_path: Path, source: str, reason: str) -> None:
    build("libcuda.so.1", source)
    finding = found(probe_gpu(Host(tmp_path, native_s=2)))["driver"]
    assert (finding.value, finding.status) == ("cannot be used", Status.PROBLEM)
    assert reason in finding.reason


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF\x02\x01\x01" + bytes(100)])
def test_a_driver_that_is_no_library_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    write(tmp_path, "/lib/libcuda.so.1", content)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    assert found(probe_gpu(Host(tmp_path)))["driver"].status is Status.PROBLEM


@pytest.mark.parametrize(
    ("vendor", "kind", "status"),
    [
        ("0x10de", "0x030200", Status.PROBLEM),
        ("0x10de", "0x040300", Status.ABSENT),
        ("0x8086", "0x030000", Status.ABSENT),
    ],
)
def test_a_gpu_on_the_bus_without_a_driver_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, kind: str, status: Status
) -> None:
    host = Host(tmp_path)
    if not host.native("driver").failure:
        pytest.skip("this machine has a driver")
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/vendor", f"{vendor}\n")
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/class", f"{kind}\n")
    write(tmp_path, "/etc/os-release", UBUNTU.format(version="22.04"))
    finding = found(probe_gpu(host))["driver"]
    assert finding.status is status
    assert bool(finding.remedy) == (status is Status.PROBLEM)


# CUDA's runtime and cuDNN


@needs_a_compiler
@pytest.mark.parametrize(("driver", "fits"), [(12060, False), (13000, True), (13020, True)])
def test_a_runtime_newer_than_the_driver_does_not_fit(build: Compile, tmp_path: Path, driver: int, fits: bool) -> None:
    build("libcudart.so.13", EMPTY)
    build("libcuda.so.1", DRIVER.format(**ORIN | {"cuda": driver}))
    host = Host(tmp_path)
    if len(host.native("library", "cudart").result["found"]) > 1:
        pytest.skip("this machine has an older one too")
    findings = found(probe_cuda(host))
    assert findings["CUDA runtime"].value == "libcudart.so.13"
    assert ("CUDA and driver" in findings) != fits
    if not fits:
        assert findings["CUDA and driver"].reason == (
            "CUDA 13 needs driver 580 or newer; this one is for CUDA up to 12.6"
        )


@needs_a_compiler
def test_an_older_runtime_beside_the_newer_one_fits(build: Compile, tmp_path: Path) -> None:
    for major in (12, 13):
        build(f"libcudart.so.{major}", EMPTY)
    build("libcuda.so.1", DRIVER.format(**ORIN))
    findings = found(probe_cuda(Host(tmp_path)))
    assert findings["CUDA runtime"].value == "libcudart.so.13, libcudart.so.12"
    assert "CUDA and driver" not in findings


@needs_a_compiler
def test_libraries_of_pips_packages_are_found(build: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("libcudnn.so.9", EMPTY)
    folder = tmp_path / "packages/nvidia/cudnn/lib"
    folder.mkdir(parents=True)
    shutil.move(tmp_path / "libraries/libcudnn.so.9", folder)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert found(probe_cuda(Host(tmp_path)))["cuDNN"].value == f"{folder}/libcudnn.so.9"


@pytest.mark.parametrize(
    ("content", "value", "status"), [(None, "none", Status.ABSENT), (b"no library", "cannot be loaded", Status.PROBLEM)]
)
def test_a_cudnn_that_is_not_there_or_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, value: str, status: Status
) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / "nvidia").exists()])
    if content is not None:
        write(tmp_path, "/lib/libcudnn.so.9", content)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    host = Host(tmp_path)
    if host.native("library", "cudnn").result["found"]:
        pytest.skip("this machine has one")
    finding = found(probe_cuda(host))["cuDNN"]
    assert (finding.value, finding.status) == (value, status)


@needs_a_compiler
def test_a_library_that_lacks_another_names_it(build: Compile, tmp_path: Path) -> None:
    needed = build("libcublasLt.so.12", "int needed(void) { return 1; }")
    build("libcudnn.so.9", "int needed(void); int f(void) { return needed(); }", str(needed))
    needed.unlink()
    outcome = Host(tmp_path).native("library", "cudnn")
    assert any("libcublasLt.so.12: cannot open" in error for error in outcome.result["errors"])


# What these mean for the engines


@needs_a_compiler
def test_tensorrts_library_without_its_python_package_is_told(
    build: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("libnvinfer.so.10", EMPTY)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / "tensorrt").exists()])
    finding = found(probe_packages(Host(tmp_path)))["TensorRT"]
    assert finding.reason == "libnvinfer.so.10 is there, its Python package is not"
    assert finding.remedy == "sudo apt install python3-libnvinfer"


@needs_a_compiler
@pytest.mark.parametrize(("major", "minor", "supported"), [(8, 7, False), (8, 9, True), (12, 0, True)])
def test_gpus_that_the_real_tensorrt_rtx_has_no_code_for(
    build: Compile, tmp_path: Path, major: int, minor: int, supported: bool
) -> None:
    pytest.importorskip("tensorrt_rtx")
    build("libcuda.so.1", DRIVER.format(**ORIN | {"major": major, "minor": minor}))
    finding = found(probe_packages(Host(tmp_path)))["TensorRT for RTX"]
    assert (finding.status is Status.OK) == supported
    if not supported:
        assert finding.reason.startswith(f"it has no code for compute capability {major}.{minor} of GPU 0, only for ")
        assert finding.remedy == "pip install 'purify-edge[tensorrt]'"
