"""The GPU that CUDA calls 0, as NVIDIA's management library (NVML) sees it: energy, power, limit, temperature.

https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html. On a Jetson it answers all of this with "not
supported".
"""

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any

from purify_edge.power.base import CountedMeter, EnergyCounter, SampledMeter

LIBRARY, DRIVER = "libnvidia-ml.so.1", "libcuda.so.1"
SUCCESS, GPU_SENSOR = 0, 0
NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE


class NvmlGpu:
    """A GPU in NVML.

    NVML counts GPUs its own way, so it is looked for by the PCI address that CUDA tells.

    Raises:
        OSError: there is no driver, no GPU, or NVML does not work.
    """

    def __init__(self, *, library: str = LIBRARY, driver: str = DRIVER) -> None:
        address = _pci_address(ctypes.CDLL(driver))
        self._nvml, self._gpu = ctypes.CDLL(library), c_void_p()
        self._function("nvmlErrorString").restype = c_char_p
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByPciBusId_v2", address, byref(self._gpu))
        name = ctypes.create_string_buffer(NAME_BYTES)
        self._call("nvmlDeviceGetName", self._gpu, name, NAME_BYTES)
        self.name = name.value.decode(errors="replace")

    def energy_j(self) -> float:
        """Return the energy since the driver was loaded, in joules.

        Raises:
            OSError: this GPU does not report it; the other methods raise the same.
        """
        value = c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._gpu, byref(value))
        return value.value / 1e3

    def power_w(self) -> float:
        """Return the power now, in watts: on many GPUs the mean over the last second."""
        return self._number("nvmlDeviceGetPowerUsage") / 1e3

    def limit_w(self) -> float:
        """Return the limit of its power, in watts."""
        return self._number("nvmlDeviceGetEnforcedPowerLimit") / 1e3

    def temperature_c(self) -> float:
        """Return its temperature, in degrees Celsius."""
        return float(self._number("nvmlDeviceGetTemperature", GPU_SENSOR))

    def _number(self, function: str, *arguments: int) -> int:
        value = c_uint()
        self._call(function, self._gpu, *arguments, byref(value))
        return value.value

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._nvml, name)
        except AttributeError as missing:
            raise OSError(f"{name}: this NVML has no such function") from missing

    def _call(self, function: str, *arguments: Any) -> None:
        error = self._function(function)(*arguments)
        if error != SUCCESS:
            raise OSError(f"{function}: {self._nvml.nvmlErrorString(error).decode(errors='replace')}")


def _pci_address(cuda: Any) -> bytes:
    """Return the PCI address of CUDA's device 0."""
    device, address = c_int(), ctypes.create_string_buffer(32)
    error = cuda.cuInit(0) or cuda.cuDeviceGet(byref(device), 0)
    error = error or cuda.cuDeviceGetPCIBusId(address, len(address), device)
    if error:
        raise OSError(f"the CUDA driver answers with error {error}")
    return address.value


def gpu_meter(gpu: NvmlGpu) -> tuple[CountedMeter | SampledMeter | None, str]:
    """Return the meter of a GPU: its counter of energy, else its readings of power; or why there is none."""
    try:
        return CountedMeter(f"{gpu.name} (NVML, energy)", "gpu", [EnergyCounter(gpu.energy_j)]), ""
    except OSError:
        pass
    try:
        return SampledMeter(f"{gpu.name} (NVML, readings of power)", "gpu", gpu.power_w), ""
    except OSError as error:
        return None, f"{gpu.name}: {error}"
