"""The CUDA runtime by ctypes."""

from typing import Any

import pytest

from helpers.fixtures import Imitate
from purify_edge.engines.tensorrt import cudart
from purify_edge.engines.tensorrt.cudart import Cuda, open_cuda
from purify_edge.errors import MissingError


@pytest.fixture
def real() -> Any:
    """A real libcudart: the system's, or that of an NVIDIA wheel."""
    for name in cudart._candidates():
        try:
            return cudart._load(name)
        except OSError:
            continue
    pytest.skip("no libcudart")


def test_every_function_is_in_the_real_library(real: Any) -> None:
    for name in [*cudart.SIGNATURES, "cudaGetErrorString"]:
        assert getattr(real, name)


def test_without_a_driver_the_reason_is_given(real: Any) -> None:
    try:
        cuda = open_cuda()
    except MissingError as error:
        assert "needs an NVIDIA GPU and its driver: cuda" in str(error)
        assert error.exit_code == 3
    else:
        assert cuda.device.name


def test_the_device_is_described(imitate: Imitate) -> None:
    imitate(name="Orin Nano", capability=(8, 7), driver=12060)
    device = open_cuda().device
    assert (device.name, device.compute_capability, device.driver) == ("Orin Nano", "8.7", "12.6")
    assert device.capability == (8, 7)


def test_no_gpu_no_library_and_a_foreign_one_are_told_apart(imitate: Imitate, monkeypatch: pytest.MonkeyPatch) -> None:
    world = imitate()
    world.cuda.count = 0
    with pytest.raises(MissingError, match="needs an NVIDIA GPU and its driver: CUDA finds no GPU"):
        open_cuda()
    monkeypatch.setattr(cudart, "_load", lambda name: object())
    with pytest.raises(MissingError, match=r"needs CUDA's runtime library, libcudart\.so"):
        open_cuda()


def test_a_library_that_does_not_fit_the_driver_gives_way(imitate: Imitate, monkeypatch: pytest.MonkeyPatch) -> None:
    old = imitate().cuda
    old.fail["cudaGetDeviceCount"] = 35
    new = imitate(name="new").cuda
    monkeypatch.setattr(cudart, "_candidates", lambda: ["old", "new"])
    monkeypatch.setattr(cudart, "_load", {"old": old, "new": new}.__getitem__)
    assert open_cuda().device.name == "new"


def test_an_error_is_taken_back(imitate: Imitate) -> None:
    world = imitate()
    cuda = Cuda(world.cuda)
    world.cuda.fail["cudaMalloc"] = 700
    with pytest.raises(MissingError):
        cuda.allocate("cudaMalloc", 4)
    assert world.cuda.calls["cudaGetLastError"] == 1
