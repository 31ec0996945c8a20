"""The meters of energy, on trees of /sys and on a stub of NVIDIA's library."""

import os
import tempfile
from pathlib import Path

import pytest

from helpers.clock import Clock
from helpers.machines import write, write_command
from helpers.meters import AGX_ORIN, ENERGY, HWMON, ORIN_NANO, POWERCAP, TWO_PACKAGES, plant
from helpers.nobody import as_nobody, needs_root
from helpers.processes import wait_for
from helpers.stub_libraries import Compile, needs_a_compiler
from purify_edge.power import base
from purify_edge.power.base import SampledMeter
from purify_edge.power.condition import condition, power_mode, temperatures_c
from purify_edge.power.meters import find_meters, kernel_meters
from purify_edge.power.nvml import NvmlGpu, gpu_meter
from purify_edge.power.rails import rails_meter
from purify_edge.power.rapl import rapl_meter


def test_the_rail_that_feeds_the_module_is_read_alone(tmp_path: Path) -> None:
    meter, reason = rails_meter(plant(tmp_path, ORIN_NANO))
    assert meter is not None
    assert (meter.name, meter.part, reason) == ("VDD_IN (INA3221)", "board", "")
    assert meter._read_w() == pytest.approx(5.056 * 0.904)


def test_without_such_a_rail_all_that_are_on_are_summed_and_named(tmp_path: Path) -> None:
    meter, _ = rails_meter(plant(tmp_path, AGX_ORIN))
    assert meter is not None
    assert meter.name == (
        "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO "
        "(INA3221, the sum of all rails: no rail feeds the whole module)"
    )
    assert meter._read_w() == pytest.approx(9.108, abs=0.001)


def test_a_channel_that_gives_an_error_is_left_out(tmp_path: Path) -> None:
    plant(tmp_path, AGX_ORIN)
    for name in ("in2_input", "curr2_input"):
        write(tmp_path, f"{HWMON}/hwmon4/{name}", "")
    meter, _ = rails_meter(tmp_path)
    assert meter is not None
    assert "VDDQ" not in meter.name


def test_rails_that_all_give_errors_are_told(tmp_path: Path) -> None:
    plant(tmp_path, {name: content for name, content in ORIN_NANO.items() if "curr" not in name})
    found = kernel_meters(tmp_path)
    assert not found.meters
    (line,) = found.not_readable
    assert line.startswith("INA3221: not readable: VDD_IN: ")
    assert "\n" not in line


def test_power_is_added_up_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(base, "time", clock)
    readings = iter([10.0, 20.0, 0.0])
    meter = SampledMeter("m", "board", lambda: next(readings))
    clock.sleep(1)
    assert meter.joules() == pytest.approx(15)
    clock.sleep(2)
    assert meter.joules() == pytest.approx(15 + 20)


def test_power_is_read_meanwhile(tmp_path: Path) -> None:
    readings: list[float] = []

    def read_w() -> float:
        readings.append(2.0)
        if len(readings) == 3:
            raise OSError("this once")
        return 2.0

    meter = SampledMeter("m", "board", read_w)
    before = meter._last_s
    with meter:
        wait_for(lambda: len(readings) >= 6)
        after, joules = meter._last_s, meter.joules()
    assert after > before
    assert joules > 0
    assert not meter._thread.is_alive()


def test_packages_are_summed_and_nothing_else(tmp_path: Path) -> None:
    meter, reason = rapl_meter(plant(tmp_path, TWO_PACKAGES))
    assert meter is not None
    assert meter.name == "package-0 + package-1 (RAPL, processor packages alone)"
    assert (meter.part, reason, meter.joules()) == ("cpu", "", 0)
    write(tmp_path, f"{POWERCAP}/intel-rapl:1/energy_uj", "3500000\n")
    write(tmp_path, f"{POWERCAP}/intel-rapl:2/energy_uj", "900000000\n")  # the whole system, which has both in it
    assert meter.joules() == pytest.approx(2.5)


def test_a_counter_that_begins_again_loses_nothing(tmp_path: Path) -> None:
    meter, _ = rapl_meter(plant(tmp_path, TWO_PACKAGES))
    assert meter is not None
    write(tmp_path, ENERGY, "171150\n")
    assert meter.joules() == pytest.approx(0.328850 + 0.171150)
    write(tmp_path, ENERGY, "1171150\n")
    assert meter.joules() == pytest.approx(1.5)


@pytest.mark.parametrize("content", ["", "much\n"])
def test_a_counter_that_holds_no_number_is_told(tmp_path: Path, content: str) -> None:
    plant(tmp_path, TWO_PACKAGES | {ENERGY: content})
    meter, reason = rapl_meter(tmp_path)
    assert meter is None
    assert reason.startswith("RAPL: not readable: ")


@needs_root
def test_a_counter_that_root_alone_may_read_is_told_in_one_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = plant(Path(folder), TWO_PACKAGES)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)
        file = root / ENERGY.lstrip("/")
        file.chmod(0o400)
        answer = as_nobody(lambda: "|".join(kernel_meters(root).not_readable))
    assert answer == f"RAPL: not readable: needs root, or as root: chmod a+r {file}"


def test_another_machine_has_no_meter_and_nothing_to_tell(tmp_path: Path) -> None:
    assert kernel_meters(tmp_path) == ((), ())
    assert condition(None, tmp_path) == {}


def test_the_mode_has_the_name_of_this_board(tmp_path: Path) -> None:
    plant(tmp_path, ORIN_NANO)
    assert power_mode(tmp_path) == "25W"
    write(tmp_path, "/etc/nvpmodel.conf", "")
    assert power_mode(tmp_path) == "mode 1"
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    assert power_mode(tmp_path) == ""
    write_command(tmp_path, "nvpmodel", "printf 'NV Power Mode: MAXN_SUPER\\n2\\n'")
    assert power_mode(tmp_path) == "MAXN_SUPER"


def test_temperatures_are_those_of_zones_that_are_on(tmp_path: Path) -> None:
    assert temperatures_c(plant(tmp_path, ORIN_NANO)) == {"cpu-thermal": 47.531, "tj-thermal": 49.312}


# NVIDIA's library

CUDA = """
int cuInit(unsigned flags) { return %d; }
int cuDeviceGet(int *device, int index) { *device = 7 + index; return 0; }
int cuDeviceGetPCIBusId(char *out, int length, int device) {
    const char *mine = device == 7 ? "0000:3B:00.0" : "?"; int i = 0;
    do out[i] = mine[i]; while (mine[i++]);
    return 0;
}
"""
NVML = """
#include <string.h>
static unsigned long long energy = 5000;
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int error) { return error == 3 ? "Not Supported" : "Unknown Error"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **gpu) {
    *gpu = (void *)0x123456789abc; return strcmp(address, "0000:3B:00.0") ? 6 : 0;
}
static int same(void *gpu) { return gpu == (void *)0x123456789abc; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned length) {
    strncpy(name, "NVIDIA Stub", length); return !same(gpu);
}
int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *mj) {
    *mj = energy += 1500; return same(gpu) ? %d : 2;
}
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *mw) { *mw = 70000; return same(gpu) ? %d : 2; }
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *c) { *c = 41; return sensor ? 2 : %d; }
int nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned *mw) { *mw = 300000; return same(gpu) ? 0 : 2; }
"""


def gpu_of(build: Compile, *, energy: int = 0, power: int = 0, temperature: int = 0) -> NvmlGpu:
    driver = build("libcuda-of-test.so", CUDA % 0)
    return NvmlGpu(driver=str(driver), library=str(build("libnvml-of-test.so", NVML % (energy, power, temperature))))


@needs_a_compiler
def test_a_gpu_is_found_by_its_pci_address_and_counts_energy(build: Compile, tmp_path: Path) -> None:
    gpu = gpu_of(build)
    meter, reason = gpu_meter(gpu)
    assert meter is not None
    assert (meter.name, meter.part, reason) == ("NVIDIA Stub (NVML, energy)", "gpu", "")
    assert meter.joules() == pytest.approx(1.5)
    assert condition(gpu, tmp_path) == {"temperatures_c": {"NVIDIA Stub": 41}, "gpu_limit_w": 300}


@needs_a_compiler
def test_without_a_counter_power_is_read(build: Compile) -> None:
    meter, _ = gpu_meter(gpu_of(build, energy=3))
    assert meter is not None
    assert meter.name == "NVIDIA Stub (NVML, readings of power)"
    assert meter._read_w() == 70  # type: ignore[union-attr]


@needs_a_compiler
def test_a_gpu_that_tells_nothing_is_told(build: Compile, tmp_path: Path) -> None:
    gpu = gpu_of(build, energy=3, power=3, temperature=3)
    found = find_meters(gpu, plant(tmp_path, TWO_PACKAGES))
    assert [meter.part for meter in found.meters] == ["cpu"]
    assert found.not_readable == ("NVIDIA Stub: nvmlDeviceGetPowerUsage: Not Supported",)
    assert condition(gpu, tmp_path) == {}


@needs_a_compiler
def test_a_board_has_its_gpu_in_it(build: Compile, tmp_path: Path) -> None:
    gpu = gpu_of(build)
    assert [meter.part for meter in find_meters(gpu, plant(tmp_path, ORIN_NANO)).meters] == ["board"]


@needs_a_compiler
def test_a_pc_has_both(build: Compile, tmp_path: Path) -> None:
    gpu = gpu_of(build)
    assert [meter.part for meter in find_meters(gpu, plant(tmp_path, TWO_PACKAGES)).meters] == ["cpu", "gpu"]


@needs_a_compiler
def test_a_driver_without_a_gpu_an_old_library_and_none_are_errors_of_the_system(build: Compile) -> None:
    none = build("libcuda-of-test.so", CUDA % 100)
    with pytest.raises(OSError, match="answers with error 100"):
        NvmlGpu(driver=str(none))
    driver, old = build("libcuda-of-test2.so", CUDA % 0), build("libnvml-old.so", "int unrelated;")
    with pytest.raises(OSError, match="nvmlErrorString: this NVML has no such function"):
        NvmlGpu(driver=str(driver), library=str(old))
    with pytest.raises(OSError, match="cannot open shared object"):
        NvmlGpu(driver=os.devnull + "none")


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="needs an NVIDIA GPU")
def test_a_real_gpu_counts_energy() -> None:
    gpu = NvmlGpu()
    meter, reason = gpu_meter(gpu)
    assert meter is not None, reason
    assert gpu.temperature_c() > 0
