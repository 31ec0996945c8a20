"""Shared libraries: what a file needs and lacks, and which package has it."""

import contextlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.machines import JETSONS, UBUNTU, jetson_root, write
from helpers.stub_libraries import DRIVER, ORIN, Compile, needs_a_compiler
from purify_edge.doctor.elf import dynamic_section, libraries_in, missing_libraries
from purify_edge.doctor.host import Host
from purify_edge.doctor.libraries import PACKAGES, explain, install_remedy, missing_reason

# What a file needs


@needs_a_compiler
def test_what_a_library_needs_and_lacks_is_found(build: Compile) -> None:
    deep = build("libdeep.so.1", "int deep(void) { return 1; }")
    middle = build("libmiddle.so.2", "int deep(void); int middle(void) { return deep(); }", str(deep))
    gone = build("libgone.so.3", "int gone(void) { return 2; }")
    source = "int middle(void), gone(void); int top(void) { return middle() + gone(); }"
    top = build("libtop.so", source, str(middle), str(gone), "-Wl,-rpath,$ORIGIN:/somewhere")
    needed, folders = dynamic_section(top.read_bytes())
    assert needed[:2] == ["libmiddle.so.2", "libgone.so.3"]
    assert folders == ["$ORIGIN", "/somewhere"]
    gone.unlink()
    # libmiddle is there, beside libtop; libdeep is not, for this process reads no LD_LIBRARY_PATH set after its start
    assert missing_libraries(top) == ["libdeep.so.1", "libgone.so.3"]


@needs_a_compiler
def test_readelf_agrees(build: Compile) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("needs readelf")
    library = build("libm_user.so", "double sin(double); double f(double x) { return sin(x); }", "-lm")
    out = subprocess.run([readelf, "-d", str(library)], capture_output=True, text=True, check=True).stdout
    theirs = [line.partition("[")[2].rstrip("]") for line in out.splitlines() if "(NEEDED)" in line]
    assert dynamic_section(library.read_bytes())[0] == theirs


@needs_a_compiler
def test_a_file_cut_anywhere_is_refused_or_read_but_never_crashes(build: Compile) -> None:
    content = build("libwhole.so", "int f(void) { return 1; }", "-lm").read_bytes()
    for length in range(0, len(content), 97):
        try:
            dynamic_section(content[:length])
        except ValueError as error:
            assert "ELF file" in str(error)


@needs_a_compiler
def test_a_file_with_any_byte_changed_is_refused_or_read_but_never_crashes(build: Compile) -> None:
    content = build("libwhole.so", "int f(void) { return 1; }", "-lm").read_bytes()
    generator = random.Random(0)
    for _ in range(2000):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(6, 64 + 56 * 12)] = generator.randrange(256)
        with contextlib.suppress(ValueError):
            dynamic_section(bytes(changed))


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(60), b"MZ" * 40, b"!<arch>\n"])
def test_what_is_no_elf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lib.so"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"ELF file|empty"):
        missing_libraries(file)


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
def test_the_loaders_messages_name_the_library(message: str, libraries: list[str]) -> None:
    assert libraries_in(message) == libraries


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
