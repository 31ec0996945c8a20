"""The probe of packages: two of one module, old, hidden or with damaged metadata."""

import sys
from pathlib import Path

import pytest

from helpers.findings import found
from helpers.machines import write
from helpers.packages import SEGFAULT, host, install
from purify_edge.doctor.child import Answer
from purify_edge.doctor.findings import Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.packages import OLDEST_ONNXRUNTIME, installed, probe_packages

pytestmark = pytest.mark.once

JETSON = "# R36 (release), REVISION: 4.3"


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not (Path(folder) / "tensorrt").exists()])


def test_two_packages_of_one_module_are_a_problem(package: Path, tmp_path: Path) -> None:
    install(package, "unrelated", "", distribution="onnxruntime-gpu", version="1.31.1")
    finding = found(probe_packages(host(tmp_path)))["ONNX Runtime"]
    assert finding.status is Status.PROBLEM
    assert finding.value.endswith(", onnxruntime-gpu 1.31.1")
    assert finding.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'purify-edge[gpu]'"


@pytest.mark.parametrize(("version", "status"), [("1.16.3", Status.WARNING), ("1.21.0", Status.OK)])
def test_an_old_onnxruntime_is_a_warning(package: Path, tmp_path: Path, version: str, status: Status) -> None:
    install(package, "unrelated", "", distribution="onnxruntime", version=version)
    finding = found(probe_packages(host(tmp_path)))["ONNX Runtime"]
    assert (finding.value, finding.status) == (f"onnxruntime {version}", status)
    if status is Status.WARNING:
        assert finding.reason == f"purify-edge needs {'.'.join(map(str, OLDEST_ONNXRUNTIME))} or newer"
        assert finding.remedy == "pip install --upgrade 'purify-edge[cpu]'"


def test_damaged_metadata_do_no_harm(package: Path, tmp_path: Path) -> None:
    (package / "onnxruntime_gpu-1.0.dist-info").mkdir()
    (package / "onnxruntime_gpu-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\0")
    list(probe_packages(host(tmp_path)))
    assert installed("no-such-package") == {}


def test_a_tensorrt_is_named_with_its_file(package: Path, tmp_path: Path) -> None:
    install(package, "tensorrt", "__version__ = '10.3.0'")
    finding = found(probe_packages(host(tmp_path)))["TensorRT"]
    assert finding.value == f"10.3.0, {package}/tensorrt/__init__.py"


@pytest.mark.usefixtures("without_tensorrt")
def test_a_tensorrt_that_apt_installed_and_the_environment_hides(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    finding = found(probe_packages(host(tmp_path)))["TensorRT"]
    assert (finding.value, finding.status) == ("hidden", Status.PROBLEM)


@pytest.mark.usefixtures("without_tensorrt")
def test_a_jetson_without_tensorrt_is_told_the_package(tmp_path: Path) -> None:
    write(tmp_path, "/etc/nv_tegra_release", JETSON)
    finding = found(probe_packages(host(tmp_path)))["TensorRT"]
    assert (finding.status, finding.remedy) == (Status.ABSENT, "sudo apt install nvidia-jetpack")


@pytest.mark.usefixtures("without_tensorrt")
def test_elsewhere_a_missing_tensorrt_is_left_to_the_engines_verdict(tmp_path: Path) -> None:
    assert "TensorRT" not in found(probe_packages(host(tmp_path)))


def test_the_dla_compilers_library_is_found_missing_on_a_jetson(package: Path, tmp_path: Path) -> None:
    write(tmp_path, "/etc/nv_tegra_release", JETSON)
    install(package, "tensorrt", "raise ImportError('libnvdla_compiler.so: cannot open shared object file: No such')")
    finding = found(probe_packages(host(tmp_path)))["TensorRT"]
    assert (finding.value, finding.status) == ("cannot be imported", Status.PROBLEM)
    assert finding.remedy == "sudo apt install nvidia-l4t-dla-compiler"


@pytest.mark.parametrize(("source", "reason"), [("raise ImportError('broken')", "broken"), (SEGFAULT, "SIGSEGV")])
def test_a_tensorrt_rtx_that_cannot_be_imported(package: Path, tmp_path: Path, source: str, reason: str) -> None:
    install(package, "tensorrt_rtx", source)
    finding = found(probe_packages(host(tmp_path)))["TensorRT for RTX"]
    assert finding.status is Status.PROBLEM
    assert reason in finding.reason


def test_opencv_is_told_with_what_it_was_built_with(package: Path, tmp_path: Path) -> None:
    said = "  Video I/O:\\n    FFMPEG:      YES\\n    GStreamer:    NO\\n    v4l/v4l2:     YES (linux/videodev2.h)\\n"
    install(package, "cv2", f"__version__ = '4.12.0'\ndef getBuildInformation(): return '{said}'")
    finding = found(probe_packages(host(tmp_path)))["OpenCV"]
    assert (finding.value, finding.status) == ("4.12.0, with FFmpeg, without GStreamer, with V4L2", Status.OK)


def test_the_opencv_of_pypi_is_told() -> None:
    cv2 = pytest.importorskip("cv2")
    finding = found(probe_packages(Host()))["OpenCV"]
    assert finding.value.startswith(f"{cv2.__version__}, with FFmpeg, ")
    assert finding.value.endswith("with V4L2")


def test_an_opencv_that_crashes_is_a_problem(package: Path, tmp_path: Path) -> None:
    install(package, "cv2", SEGFAULT)
    finding = found(probe_packages(host(tmp_path)))["OpenCV"]
    assert (finding.value, finding.status) == ("cannot be imported", Status.PROBLEM)
    assert "SIGSEGV" in finding.reason


GSTREAMER = {"version": "1.20.3", "decoder": "nvv4l2decoder", "missing_on_jetson": []}


@pytest.mark.parametrize(
    ("jetson", "answer", "status", "words"),
    [
        (True, Answer(result=GSTREAMER), Status.OK, "1.20.3, rtsp:// decoded by nvv4l2decoder"),
        (True, Answer(result=GSTREAMER | {"missing_on_jetson": ["nvvidconv"]}), Status.WARNING, "without nvvidconv"),
        (True, Answer(failure="MissingError: GStreamer is not installed"), Status.ABSENT, "not installed"),
        (False, Answer(result=GSTREAMER | {"decoder": ""}), Status.ABSENT, "reads no rtsp://"),
    ],
)
def test_what_gstreamer_reads_is_told(tmp_path: Path, jetson: bool, answer: Answer, status: Status, words: str) -> None:
    """The answers are those of `native.gstreamer`, which is tested on a real one in tests/cameras."""
    if jetson:
        write(tmp_path, "/etc/nv_tegra_release", JETSON)
    machine = host(tmp_path)
    machine._answers["gstreamer",] = answer
    finding = found(probe_packages(machine))["GStreamer"]
    assert finding.status is status
    assert words in f"{finding.value} {finding.reason}"


def test_a_machine_without_gstreamer_is_told_nothing(tmp_path: Path) -> None:
    machine = host(tmp_path)
    machine._answers["gstreamer",] = Answer(failure="MissingError: GStreamer is not installed")
    assert "GStreamer" not in found(probe_packages(machine))
