"""Shared libraries: what a file needs and lacks, and which package has it."""

import shutil
from pathlib import Path

import pytest

from helpers.machines import JETSONS, UBUNTU, jetson_root, write
from helpers.stub_libraries import DRIVER, ORIN, Compile, needs_a_compiler
from purify_edge.doctor.host import Host
from purify_edge.doctor.libraries import PACKAGES, explain, install_remedy, missing_libraries, missing_reason

# What the loader says


@needs_a_compiler
@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_all_libraries_that_a_file_lacks_are_named_not_only_the_loaders_first(build: Compile, tmp_path: Path) -> None:
    gone = [build(name, "int f(void) { return 1; }") for name in ("libcufft.so.11", "libgone.so.3")]
    file = build("libprovider.so", "int g(void) { return 1; }", "-Wl,--no-as-needed", *map(str, gone))
    for library in gone:
        library.unlink()
    message = f"Failed to load {file} with error: libcufft.so.11: cannot open shared object file: No such file"
    assert missing_libraries(message, Host(tmp_path)) == ["libcufft.so.11", "libgone.so.3"]
    reason, remedy = explain(message, Host(tmp_path))
    assert reason.startswith("missing libcufft.so.11 (pip: nvidia-cufft-cu12, apt: cuda-toolkit-12), libgone.so.3")
    assert remedy == "pip install nvidia-cufft-cu12"


def test_a_file_that_is_no_library_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.so").write_bytes(b"\x7fELF nonsense")
    message = f"{tmp_path}/bad.so: invalid ELF header"
    assert missing_libraries(message, Host(tmp_path)) == ["bad.so"]


@pytest.mark.parametrize(
    ("message", "libraries"),
    [
        ("libcudnn.so.9: cannot open shared object file: No such file or directory", ["libcudnn.so.9"]),
        ("/usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so: file too short", ["libnvdla_compiler.so"]),
        ("Error loading shared library libgomp.so.1: No such file or directory (needed by x)", ["libgomp.so.1"]),
        ("a.so: cannot open shared object file\nand a.so: cannot open shared object file", ["a.so"]),
        ("undefined symbol: foo", []),
    ],
)
def test_the_loaders_messages_name_the_library(tmp_path: Path, message: str, libraries: list[str]) -> None:
    assert missing_libraries(message, Host(tmp_path)) == libraries


# Which package has it


def test_every_library_has_a_package() -> None:
    for library, package in PACKAGES.items():
        assert package.jetson, library
        assert ".so" in library


def test_on_a_server_pip_comes_first(tmp_path: Path) -> None:
    missing = ["libcublasLt.so.12", "libcublas.so.12", "libcudnn.so.9", "libgomp.so.1", "libunheard.so.7"]
    host = Host(tmp_path)
    assert install_remedy(missing, host) == (
        "pip install nvidia-cublas-cu12 nvidia-cudnn-cu12 && sudo apt install libgomp1"
    )
    assert missing_reason(missing[-2:], host) == "missing libgomp.so.1 (apt: libgomp1), libunheard.so.7"


@needs_a_compiler
@pytest.mark.parametrize(
    ("missing", "driver", "package"),
    [
        (["libcudnn.so.9"], 13000, "nvidia-cudnn-cu13"),
        (["libcudnn.so.9"], 12080, "nvidia-cudnn-cu12"),
        (["libcudnn.so.9", "libcublas.so.13"], 12080, "nvidia-cudnn-cu13"),
        (["libcudnn.so.9", "libcufft.so.11"], 13000, "nvidia-cudnn-cu12"),
    ],
)
def test_packages_are_for_one_version_of_cuda(
    build: Compile, tmp_path: Path, missing: list[str], driver: int, package: str
) -> None:
    build("libcuda.so.1", DRIVER.format(**ORIN | {"cuda": driver}))
    host = Host(tmp_path)
    assert package in install_remedy(missing, host)
    assert f"libcudnn.so.9 (pip: {package}, apt: cudnn9-cuda-{package[-2:]})" in missing_reason(missing, host)


def test_on_a_jetson_apt_alone(tmp_path: Path) -> None:
    host = jetson_root(tmp_path, JETSONS["JetPack 6.2.1"])
    assert (
        install_remedy(["libcudart.so.12", "libnvinfer.so.10"], host) == "sudo apt install nvidia-cuda nvidia-tensorrt"
    )


NO_COMPILER = "libnvdla_compiler.so: cannot open shared object file: No such file or directory"
EMPTY_COMPILER = "/usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so: file too short"
FROM_APT = "(apt: nvidia-l4t-dla-compiler)"
OF_JETPACK_6 = "(no package of JetPack 7 has it: this TensorRT was made for JetPack 6)"


@pytest.mark.parametrize("message", [NO_COMPILER, EMPTY_COMPILER])
@pytest.mark.parametrize(
    ("device", "in_container", "source", "remedy"),
    [
        ("JetPack 6.0", False, FROM_APT, "sudo apt install nvidia-l4t-dla-compiler"),
        ("JetPack 6.2.1", False, FROM_APT, "sudo apt install nvidia-l4t-dla-compiler"),
        (
            "JetPack 6.2.1",
            True,
            FROM_APT,
            "sudo apt install nvidia-l4t-dla-compiler  # on the device, not in this container",
        ),
        (
            "JetPack 7.2.1",
            False,
            OF_JETPACK_6,
            "sudo apt install nvidia-jetpack && /usr/bin/python3 -m venv --system-site-packages ~/purify",
        ),
        (
            "JetPack 7.2.1",
            True,
            OF_JETPACK_6,
            "docker run --runtime nvidia IMAGE  # one with the TensorRT of JetPack 7",
        ),
    ],
)
def test_the_dlas_compiler_is_a_package_on_jetpack_6_alone(
    tmp_path: Path, message: str, device: str, in_container: bool, source: str, remedy: str
) -> None:
    host = jetson_root(tmp_path, JETSONS[device])
    if in_container:
        write(tmp_path, "/.dockerenv", "")
    assert explain(message, host) == (f"missing libnvdla_compiler.so {source}", remedy)


def test_a_thor_is_not_told_to_install_the_dlas_compiler(tmp_path: Path) -> None:
    write(tmp_path, "/etc/nv_tegra_release", "# R38 (release), REVISION: 2.0, BOARD: generic, EABI: aarch64\n")
    reason, remedy = explain(NO_COMPILER, Host(tmp_path))
    assert OF_JETPACK_6 in reason
    assert "dla-compiler" not in remedy


def test_without_a_release_both_are_told_of_the_dlas_compiler_and_no_command(tmp_path: Path) -> None:
    write(tmp_path, "/proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0")
    write(tmp_path, "/.dockerenv", "")
    reason = "(apt: nvidia-l4t-dla-compiler on JetPack 6; no package of JetPack 7 has it)"
    assert explain(NO_COMPILER, Host(tmp_path)) == (f"missing libnvdla_compiler.so {reason}", "")


def test_a_server_has_no_package_of_the_dlas_compiler(tmp_path: Path) -> None:
    assert explain(NO_COMPILER, Host(tmp_path)) == ("missing libnvdla_compiler.so", "")


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ({}, ""),
        ({"/etc/os-release": UBUNTU.format(version="24.04")}, "sudo ubuntu-drivers install --gpgpu && sudo reboot"),
        ({"/.dockerenv": ""}, "docker run --gpus all IMAGE"),
        ({"/run/.containerenv": ""}, "docker run --gpus all IMAGE"),
        (
            {"/etc/nv_tegra_release": JETSONS["JetPack 6.2.1"].release},
            "sudo apt install --reinstall nvidia-l4t-cuda && sudo reboot",
        ),
        (
            {"/.dockerenv": "", "/etc/nv_tegra_release": JETSONS["JetPack 6.2.1"].release},
            "docker run --runtime nvidia IMAGE",
        ),
    ],
)
def test_the_drivers_libraries_come_with_the_driver(tmp_path: Path, files: dict[str, str], remedy: str) -> None:
    for name, content in files.items():
        write(tmp_path, name, content)
    message = "libcuda.so.1: cannot open shared object file: No such file or directory"
    assert explain(message, Host(tmp_path)) == ("missing libcuda.so.1 (NVIDIA's driver)", remedy)
