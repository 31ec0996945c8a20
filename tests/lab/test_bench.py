import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from helpers.clock import Clock
from lab.speed import process, rounds
from lab.speed.__main__ import main
from lab.speed.bars import BEST_BY_HAND, Bar, Bench, Process, bars_of
from lab.speed.by_hand import LIBRARIES
from lab.speed.contestants import (
    BARE_LABELS,
    BARE_PREDICT,
    COMPILED,
    EAGER,
    HAND,
    LABELS,
    PREDICT,
    SGEMM,
    SGEMM_SIZE,
    gather,
)
from lab.speed.document import document_of
from lab.speed.rounds import Row, measure
from lab.speed.run import bench
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.document.terminal import print_document

IMAGES = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SETTLE_S", 0.0)
    monkeypatch.setattr(rounds, "ROUND_S", 0.0)
    monkeypatch.setattr(rounds, "AWAKE_S", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    return clock


def test_contestants_take_turns_and_ratios_are_of_the_same_round(clock: Clock) -> None:
    turns: list[str] = []
    drift = iter([0.02] * (2 * rounds.WARMUP) + [0.02, 0.02, 0.06, 0.06, 0.02, 0.02])
    now = 0.0

    def first(images: Any) -> None:
        nonlocal now
        now = next(drift)
        turns.append("a")
        clock.sleep(now)

    def second(images: Any) -> None:
        turns.append("b")
        clock.sleep(3 * now)

    one, other = measure({"a": first, "b": second}, IMAGES, rounds=3, budget_s=60, reference="a")
    assert "".join(turns[3 * rounds.WARMUP :]) == "aabb" * 3  # one that is not timed, one that is
    assert (one.ratio, one.n, one.calls) == (1.0, 3, 1)
    assert other.ratio == pytest.approx(3)  # although the machine was three times slower in between
    assert one.ms_per_image == one.p50_ms / 2


def test_nobody_always_follows_the_same_other_one(clock: Clock) -> None:
    turns: list[str] = []

    def call(name: str) -> Callable[[Any], None]:
        def run(images: Any) -> None:
            turns.append(name)
            clock.sleep(0.011)  # longer than IN_A_ROW_MS: one call that is timed

        return run

    measure({name: call(name) for name in "abcd"}, IMAGES, rounds=8, budget_s=60, reference="a")
    drawn = "".join(turns[(4 + 1) * rounds.WARMUP :: 2])
    orders = [drawn[start : start + 4] for start in range(0, len(drawn), 4)]
    assert len(orders) == 8
    assert {"".join(sorted(order)) for order in orders} == {"abcd"}
    assert {order[3] for order in orders} == {"d"}
    assert len({order[:3] for order in orders}) > 2


def test_quick_calls_are_made_in_a_row() -> None:
    turns: list[str] = []
    rows = measure(
        {name: lambda _, name=name: turns.append(name) for name in "ab"}, IMAGES, rounds=3, budget_s=9, reference="a"
    )
    assert [row.calls for row in rows] == [rounds.MAX_IN_A_ROW] * 2
    assert "".join(turns[-22:]) == "a" * 11 + "b" * 11


def test_rounds_end_with_the_time_but_there_are_three(clock: Clock) -> None:
    (row,) = measure({"a": lambda _: clock.sleep(0.01)}, IMAGES, rounds=1000, budget_s=0.0, reference="a")
    assert row.n == 3


def test_every_contestant_gives_the_references_labels(bundle_path: Path, adversarial: GoldenSplit) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        found = gather(bundle_path, "fp32", "onnxruntime", None, stack)
        labels = adversarial.defended[:70].argmax(axis=1)
        for name, call in found.calls.items():
            if name.startswith(HAND) or name == LABELS:
                given: Any = call(adversarial.images[:70])
                assert (given == labels).mean() > 0.98, name
        assert found.calls.keys() >= {LABELS, PREDICT, BARE_LABELS, BARE_PREDICT, SGEMM}
        here = [library for library in LIBRARIES if find_spec(library)]
        for library in here:
            assert {f"{HAND}{library}, composed", f"{HAND}{library}, chained"} <= found.calls.keys()
        assert found.settings == "onnxruntime in fp32 on cpu"
    assert set(found.not_run) == {EAGER, COMPILED} | {f"{HAND}{name}" for name in LIBRARIES if name not in here}


def test_pytorch_runs_the_same_networks(bundle_path: Path, adversarial: GoldenSplit) -> None:
    pytest.importorskip("torch")
    from lab.speed.pytorch import contestants as added

    calls = added("fashion-mnist")
    assert set(calls) == {EAGER, COMPILED}
    given: Any = calls[EAGER](adversarial.images)
    assert (given == adversarial.defended.argmax(axis=1)).mean() > 0.99


def test_a_run_without_pytorch_is_refused(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lab.speed.pytorch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(main, [str(bundle_path), "--run", "fashion-mnist", "--engine", "onnxruntime"])
    assert result.exit_code == 3
    assert "needs 'train': pip install 'purify-edge[train]'" in result.output


def row(contestant: str, batch: int, *times_ms: float) -> Row:
    (made,) = [rounds._row(contestant, batch, 1, list(times_ms), list(times_ms))]
    return made


def by_name(bars: Any) -> dict[str, Bar]:
    return {bar.name: bar for bar in bars}


def test_each_bar_is_the_median_of_the_rounds_ratios() -> None:
    rows = [
        row(LABELS, 1, 1.0, 2.0, 1.0),
        row(BARE_LABELS, 1, 0.9, 1.9, 1.0),
        row(f"{HAND}onnxruntime, composed", 1, 2.0, 2.0, 1.0),
        row(f"{HAND}openvino, composed", 1, 3.0, 3.0, 3.0),
        row(f"{HAND}openvino in bf16, composed", 1, 0.1, 0.1, 0.1),
        row(EAGER, 1, 10.0, 8.0, 4.0),
        row(SGEMM, 1, 2.0, 2.0, 2.0),
        row(LABELS, 64, 80.0, 80.0, 80.0),
    ]
    bars = by_name(bars_of(rows, SGEMM_SIZE**3, None, {COMPILED: "no --run"}))
    assert bars["labels, batch 1, against PyTorch"].value == pytest.approx(0.25)
    assert not bars["labels, batch 1, against PyTorch"].passed
    best = bars[f"labels, batch 1, against {BEST_BY_HAND} (onnxruntime, composed)"]  # another precision does not count
    assert (best.value, best.passed) == (1.0, True)
    compiled = bars["labels, batch 1, against torch.compile"]
    assert (compiled.value, compiled.passed, compiled.reason) == (None, None, "no --run")
    assert bars["labels, batch 1, against its engine alone"].value == pytest.approx(2.0 / 1.9)
    assert bars["labels, batch 1, against the roofline"].value == pytest.approx(1.0)  # half a product, in half its time
    rise = bars["labels, cost an image: largest rise from one batch to the next"]
    assert (rise.value, rise.passed) == (pytest.approx(1.25), False)


def test_what_processes_take_is_held_against_its_bars() -> None:
    measured = Process(cold_start_s=(0.5, 0.7, 9.0), resident_mib=250.0, soak_calls=10, growth_mib=0.5)
    bars = by_name(bars_of([], None, measured, {}))
    assert [bars[name].passed for name in list(bars)[-3:]] == [True, False, True]
    without = by_name(bars_of([], None, None, {}))
    assert [without[name].reason for name in list(without)[-3:]] == ["--no-process"] * 3


@pytest.mark.slow
def test_a_benchmark_from_end_to_end(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STARTS", 2)
    told: list[str] = []
    found = bench(
        bundle_path, engine="onnxruntime", batches=(1, 3), rounds=3, budget_s=0, soak=50, busy=True, tell=told.append
    )
    assert found.busy
    assert {(row.contestant, row.batch) for row in found.rows} >= {(LABELS, 1), (LABELS, 3), (SGEMM, 1)}
    assert found.process is not None
    assert all(seconds > 0 for seconds in found.process.cold_start_s)
    assert 30 < found.process.resident_mib < 2000
    assert found.process.soak_calls == 50
    assert found.flop == Bundle.open(bundle_path).model("defended", "fp32").flop
    out = printed(found, 160)
    assert "labels, batch 1, against the best by hand" in out
    for word in ("sgemm", "one core kept busy", "no --run", "batch 64 was not run", "quartiles"):
        assert word in out


def test_the_command_prints_json_and_fails_where_a_bar_does(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--engine", "onnxruntime", "--batch", "1", "--rounds", "3", "--budget", "0", "--no-process", "--json"]
    result = CliRunner().invoke(main, [str(bundle_path), *options])
    found = json.loads(result.stdout)
    assert result.exit_code == int(any(bar["passed"] is False for bar in found["bars"]))
    assert found["environment"]["cores"] > 0
    assert {row["batch"] for row in found["rows"]} == {1}
    monkeypatch.setattr("lab.speed.bars.AGAINST", ((1, BEST_BY_HAND, 0.0),))
    assert CliRunner().invoke(main, [str(bundle_path), *options]).exit_code == 1


def printed(bench: Bench, width: int) -> str:
    out = StringIO()
    print_document(document_of(bench), Console(file=out, width=width))
    return out.getvalue()
