"""Energy for an image, by real meters and an imitated clock."""

import pytest

from helpers.clock import Clock
from purify_edge.engines import energy
from purify_edge.engines.energy import IDLE_S, ROW_S, SETTLE_S, measure_energy
from purify_edge.engines.latency import Contestant
from purify_edge.power.base import CountedMeter, EnergyCounter, Part

IDLE_W, LOAD_W, CALL_S = 3.0, 8.0, 0.25
ONE, MANY = Contestant("onnxruntime", "fp32", "defended", 1), Contestant("onnxruntime", "fp32", "defended", 32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(energy, "time", clock)
    return clock


class Machine:
    """What takes 3 W at rest, and 8 W while a call runs."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.extra_j, self.calls = clock, 0.0, 0

    def call(self) -> None:
        self.calls += 1
        self.clock.sleep(CALL_S)
        self.extra_j += (LOAD_W - IDLE_W) * CALL_S

    def meter(self, name: str = "meter", part: Part = "board") -> CountedMeter:
        return CountedMeter(name, part, [EnergyCounter(lambda: IDLE_W * self.clock.now_s + self.extra_j)])


def test_what_is_above_idle_is_told_beside_all(clock: Clock) -> None:
    machine = Machine(clock)
    rows, failed = measure_energy({ONE: machine.call, MANY: machine.call}, [machine.meter()], {})
    assert failed == []
    assert clock.now_s == SETTLE_S + IDLE_S + 2 * ROW_S
    one, many = rows
    assert (one.n, one.seconds, one.meter) == (ROW_S / CALL_S, ROW_S, "meter")
    assert (one.idle_w, one.power_w) == pytest.approx((IDLE_W, LOAD_W))
    assert one.mj_per_image == pytest.approx(1000 * LOAD_W * CALL_S)
    assert one.mj_per_image_above_idle == pytest.approx(1000 * (LOAD_W - IDLE_W) * CALL_S)
    assert many.mj_per_image == pytest.approx(one.mj_per_image / 32)


def test_a_call_that_takes_longer_is_made_once(clock: Clock) -> None:
    machine = Machine(clock)
    (row,), _ = measure_energy({ONE: lambda: clock.sleep(60)}, [machine.meter()], {})
    assert (row.n, row.seconds) == (1, 60)


def test_the_gpu_is_asked_for_engines_on_it_alone(clock: Clock) -> None:
    machine, on_gpu = Machine(clock), Contestant("tensorrt", "fp16", "defended", 1)
    meters = [machine.meter("packages", "cpu"), machine.meter("card", "gpu")]
    devices = {"onnxruntime": "cpu", "tensorrt": "cuda:0 (NVIDIA T4)"}
    rows, _ = measure_energy({ONE: machine.call, on_gpu: machine.call}, meters, devices)
    found = [(row.engine, row.meter) for row in rows]
    assert found == [("onnxruntime", "packages"), ("tensorrt", "packages"), ("tensorrt", "card")]


def test_a_meter_that_stands_still_is_told_and_measures_nothing(clock: Clock) -> None:
    machine = Machine(clock)
    still = CountedMeter("package-0 (RAPL)", "cpu", [EnergyCounter(lambda: 4711.0, 262143.0)])
    rows, failed = measure_energy({ONE: machine.call}, [still, machine.meter()], {})
    assert [row.meter for row in rows] == ["meter"]
    assert failed == ["package-0 (RAPL): stands still, as in virtual machines: it counts nothing"]


def test_a_meter_that_fails_on_the_way_is_left_out_from_then_on(clock: Clock) -> None:
    machine = Machine(clock)

    def read_j() -> float:
        if machine.calls > ROW_S / CALL_S:
            raise OSError(5, "Input/output error")
        return clock.now_s

    failing = CountedMeter("rail", "board", [EnergyCounter(read_j)])
    rows, failed = measure_energy(dict.fromkeys([ONE, MANY], machine.call), [failing], {})
    assert [row.batch for row in rows] == [1]
    assert failed == ["rail: not readable: [Errno 5] Input/output error"]
