"""The doctor's probe of a Jetson, on the files of real devices."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.findings import found
from helpers.machines import JETSONS, Jetson, jetson_root, write, write_command, write_package
from helpers.nobody import as_nobody, needs_root
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host, l4t_from_release
from purify_edge.doctor.jetson import JETPACKS, jetpack_of, probe_jetson

SUPPORTED = [name for name in JETSONS if not name.startswith("JetPack 5")]


def found_on(host: Host) -> dict[str, Finding]:
    return found(probe_jetson(host))


@pytest.fixture(params=JETSONS)
def device(request: pytest.FixtureRequest) -> Jetson:
    return JETSONS[request.param]


def test_release_and_model_of_real_devices_are_read(tmp_path: Path, device: Jetson) -> None:
    host = jetson_root(tmp_path, device)
    assert host.l4t == device.l4t
    assert host.is_jetson
    findings = found_on(host)
    assert findings["model"].value == device.model
    release = ".".join(map(str, device.l4t))
    assert findings["JetPack"].value.startswith(f"{device.jetpack}, Jetson Linux {release}")


def test_jetpack_5_is_refused_with_the_reason(tmp_path: Path) -> None:
    finding = found_on(jetson_root(tmp_path, JETSONS["JetPack 5.1.2"]))["JetPack"]
    assert finding.status is Status.PROBLEM
    assert finding.reason == (
        "its TensorRT 8.5 is for Python 3.8, purify-edge needs 3.10 or newer: flash JetPack 6 or 7"
    )


@pytest.mark.parametrize("name", SUPPORTED)
def test_without_the_package_nvidia_jetpack_its_installation_is_proposed(tmp_path: Path, name: str) -> None:
    finding = found_on(jetson_root(tmp_path, JETSONS[name]))["JetPack"]
    assert finding.status is Status.WARNING
    assert finding.remedy == "sudo apt update && sudo apt install nvidia-jetpack"


@pytest.mark.skipif(not os.path.exists("/usr/bin/dpkg-query"), reason="needs dpkg")  # noqa: PTH110
def test_packages_are_found_by_dpkg(tmp_path: Path) -> None:
    host = jetson_root(tmp_path, JETSONS["JetPack 6.2.1"])
    write_package(tmp_path, "nvidia-jetpack", "6.2.1+b38")
    finding = found_on(host)["JetPack"]
    assert finding.status is Status.OK
    assert finding.value == "6.2.1, Jetson Linux 36.4.7, nvidia-jetpack 6.2.1+b38"


@pytest.mark.skipif(not os.path.exists("/usr/bin/dpkg-query"), reason="needs dpkg")  # noqa: PTH110
def test_without_the_release_file_the_package_nvidia_l4t_core_tells(tmp_path: Path) -> None:
    write_package(tmp_path, "nvidia-l4t-core", "36.4.3-20250107174145")
    assert Host(tmp_path).l4t == (36, 4, 3)


def test_a_container_on_a_jetson_is_known_by_its_device_tree_alone(tmp_path: Path) -> None:
    write(tmp_path, "/proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0")
    write(tmp_path, "/.dockerenv", "")
    host = Host(tmp_path)
    assert host.is_jetson
    assert host.in_container
    finding = found_on(host)["JetPack"]
    assert (finding.value, finding.status) == ("unknown", Status.WARNING)


def test_another_machine_gets_no_findings(tmp_path: Path) -> None:
    write(tmp_path, "/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    write(tmp_path, "/proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert found_on(Host(tmp_path)) == {}


@pytest.mark.parametrize(
    ("name", "status", "remedy"),
    [
        ("JetPack 5.1.2", Status.WARNING, "sudo nvpmodel -m 0"),
        ("JetPack 6.0", Status.OK, ""),
        ("JetPack 6.2.1", Status.WARNING, "sudo nvpmodel -m 2"),
        ("JetPack 7.2.1", Status.OK, ""),
    ],
)
def test_the_command_names_the_fastest_mode_of_this_board(
    tmp_path: Path, name: str, status: Status, remedy: str
) -> None:
    finding = found_on(jetson_root(tmp_path, JETSONS[name]))["power mode"]
    assert (finding.status, finding.remedy) == (status, remedy)
    assert finding.value == JETSONS[name].power.split()[3]


def test_without_the_list_of_modes_a_limited_one_is_a_warning_all_the_same(tmp_path: Path) -> None:
    host = jetson_root(tmp_path, replace(JETSONS["JetPack 6.2.1"], modes=""))
    finding = found_on(host)["power mode"]
    assert (finding.status, finding.remedy) == (Status.WARNING, "cat /etc/nvpmodel.conf")


@pytest.mark.parametrize("script", ["exit 1", "printf '\\377\\376'", "echo 'NVPM ERROR: not root' >&2; exit 1", ":"])
def test_a_power_mode_that_cannot_be_asked_for_is_unknown(tmp_path: Path, script: str) -> None:
    host = jetson_root(tmp_path, JETSONS["JetPack 6.2.1"])
    write_command(tmp_path, "nvpmodel", script)
    assert found_on(host)["power mode"].value == "unknown"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_root
def test_a_user_outside_the_group_video_is_told_so(open_folder: Path) -> None:
    host = jetson_root(open_folder, JETSONS["JetPack 6.2.1"])
    write(open_folder, "/dev/nvmap", "").chmod(0o660)
    assert "GPU access" not in found_on(host)
    assert as_nobody(lambda: found_on(host)["GPU access"].remedy).startswith("sudo usermod -aG video,render $USER")


@needs_root
def test_files_that_may_not_be_read_are_unknown(open_folder: Path) -> None:
    write(open_folder, "/proc/device-tree/compatible", "nvidia,tegra234")
    jetson_root(open_folder, JETSONS["JetPack 6.2.1"])
    for file in open_folder.rglob("*"):
        if file.is_file() and file.name != "compatible":
            file.chmod(0)

    def values() -> str:
        host = Host(open_folder)  # a new one: the other may know already
        return " ".join(f"{finding.name}={finding.value}" for finding in probe_jetson(host))

    answer = as_nobody(values)
    assert "model=unknown JetPack=unknown power mode=unknown" in answer


@pytest.mark.parametrize("text", ["", "R36", "# R36 (release)", "\ufffd\ufffd", "# R (release), REVISION: x"])
def test_what_is_no_release_is_none(text: str) -> None:
    assert l4t_from_release(text) == ()


def test_the_newest_jetpack_stands_in_for_newer_ones(tmp_path: Path) -> None:
    assert jetpack_of((1,)) is None
    assert list(JETPACKS) == sorted(JETPACKS, key=lambda jetpack: jetpack.l4t)
    newer = replace(JETSONS["JetPack 7.2.1"], release="# R41 (release), REVISION: 1.0, GCID: 1\n")
    finding = found_on(jetson_root(tmp_path, newer))["JetPack"]
    assert finding.value == "7.2.1 or newer, Jetson Linux 41.1.0"
