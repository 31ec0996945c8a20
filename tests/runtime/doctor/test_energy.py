"""The doctor names the meters by which energy is measured."""

from pathlib import Path

from helpers.findings import found
from helpers.machines import write
from helpers.meters import ENERGY, ORIN_NANO, TWO_PACKAGES, plant
from helpers.stub_libraries import DRIVER, ORIN, Compile, needs_a_compiler
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.system import probe_system

NVML = """
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int error) { return "Not Supported"; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **gpu) { return 0; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned length) { name[0] = 'T'; name[1] = '4'; name[2] = 0; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *mj) { *mj = 1; return ANSWER; }
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *mw) { return 3; }
"""
ADDRESS = "int cuDeviceGetPCIBusId(char *out, int length, int device) { out[0] = 0; return 0; }"


def meter_of(root: Path) -> Finding:
    return found(probe_system(Host(root)))["meter of energy"]


def test_a_jetsons_rail_is_named(tmp_path: Path) -> None:
    assert meter_of(plant(tmp_path, ORIN_NANO)).value == "VDD_IN (INA3221)"


def test_a_pcs_counter_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    write(plant(tmp_path, TWO_PACKAGES), ENERGY, "")
    finding = meter_of(tmp_path)
    assert (finding.value, finding.status) == ("not readable", Status.ABSENT)
    assert finding.reason.startswith("RAPL: not readable: ")


def test_another_machine_has_none(tmp_path: Path) -> None:
    assert meter_of(tmp_path).value == "none"


@needs_a_compiler
def test_a_gpu_is_asked_in_a_process_of_its_own(build: Compile, tmp_path: Path) -> None:
    build("libcuda.so.1", DRIVER.format(**ORIN) + ADDRESS)
    build("libnvidia-ml.so.1", NVML.replace("ANSWER", "0"))
    finding = meter_of(plant(tmp_path, TWO_PACKAGES))
    assert finding.value.startswith("package-0 + package-1 (RAPL")
    assert finding.value.endswith("; T4 (NVML, energy)")
    build("libnvidia-ml.so.1", NVML.replace("ANSWER", "3"))
    assert meter_of(tmp_path / "nothing").reason == "T4: nvmlDeviceGetPowerUsage: Not Supported"
