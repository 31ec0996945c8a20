import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from helpers.clock import TickingClock
from helpers.meters import ORIN_NANO, TWO_PACKAGES, counting, plant
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Check, ParityRow, Report
from purify_edge.check import check
from purify_edge.check.check import check_bundle
from purify_edge.check.cli import main as check_command
from purify_edge.check.comparison import EngineSet, parity_row
from purify_edge.check.limits import Limits, checks_of
from purify_edge.engines import energy
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_edge.engines.registry import ENGINES
from purify_edge.errors import BundleError
from purify_edge.power.condition import condition
from purify_edge.power.meters import find_meters
from purify_edge.stats import agreeing, relative_error

pytestmark = pytest.mark.once

Spoil = Callable[[str, np.ndarray, np.ndarray], np.ndarray]
PINNED: dict[str, Any] = {"engine": "onnxruntime", "precisions": ("fp32",)}


def row_of(**changes: Any) -> ParityRow:
    row = ParityRow(
        engine="e", precision="fp32", role="defended", split="clean", n=200, max_abs_diff=0.0, mean_abs_diff=0.0
    )
    return msgspec.structs.replace(row, **changes)


@pytest.fixture(scope="module")
def report(bundle_path: Path) -> Report:
    return check_bundle(Bundle.open(bundle_path), engine="onnxruntime", precisions=("all",), rounds=3)


def test_every_model_is_compared_on_every_split(report: Report) -> None:
    found = {(row.precision, row.role, row.split) for row in report.parity}
    assert found == {
        (precision, role, split)
        for precision in ("fp32", "fp16")
        for role in ("purifier", "classifier", "pipeline", "defended", "spared")
        for split in ("clean", "adversarial", "noise")
    }
    assert report.passed
    assert all(check.passed for check in report.checks)


def test_fp32_differs_by_rounding_only_and_fp16_by_little(report: Report) -> None:
    for row in report.parity:
        limits = {"fp32": (1e-4, 1.0), "fp16": (0.5, 0.995)}[row.precision]
        assert row.max_abs_diff <= limits[0]
        assert row.mean_abs_diff <= row.max_abs_diff
        if row.role == "purifier":
            assert row.agreement is None
        else:
            assert row.agreement is not None
            assert row.agreement >= limits[1]


def test_every_stage_is_timed_at_every_batch(report: Report) -> None:
    found = {(row.precision, row.stage, row.batch) for row in report.latency}
    assert len(found) == len(report.latency) == 2 * 4 * 2
    for row in report.latency:
        assert row.n == 3
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.images_per_s == pytest.approx(1000 * row.batch / row.p50_ms)


def test_the_environment_names_machine_and_versions(report: Report) -> None:
    assert {"numpy", "onnxruntime", "purify-edge"} <= report.environment["versions"].keys()
    assert report.environment["processor"]


def test_energy_is_measured_where_a_meter_can_be_read(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant(tmp_path, ORIN_NANO | TWO_PACKAGES)
    shutil.rmtree(root / "sys/class/hwmon")
    monkeypatch.setattr(check, "find_meters", partial(find_meters, root=root))
    monkeypatch.setattr(check, "condition", partial(condition, root=root))
    monkeypatch.setattr(energy, "ROW_S", 0.05)
    clock = TickingClock()
    monkeypatch.setattr(energy, "time", clock)
    monkeypatch.setattr("purify_edge.power.rapl.number_in", counting(root, clock, watts=20))
    found = check_bundle(Bundle.open(few_images), **PINNED, rounds=1)
    assert found.passed
    timed = {(row.engine, row.precision, row.stage, row.batch) for row in found.latency}
    assert {(row.engine, row.precision, row.stage, row.batch) for row in found.energy} == timed
    for row in found.energy:
        assert row.mj_per_image == pytest.approx(1000 * row.power_w * row.seconds / (row.n * row.batch))
        assert row.power_w == pytest.approx(20)
    power = found.environment["power"]
    assert power["mode"] == "25W"
    assert power["temperatures_c"]["tj-thermal"] == 49.312
    assert power["meters"] == [found.energy[0].meter]


def test_a_counter_that_stands_still_is_told_in_the_report(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "find_meters", partial(find_meters, root=plant(tmp_path, TWO_PACKAGES)))
    for name in ("SETTLE_S", "IDLE_S", "ROW_S"):
        monkeypatch.setattr(energy, name, 0.01)
    found = check_bundle(Bundle.open(few_images), **PINNED, rounds=1)
    assert found.energy == ()
    assert "stands still" in found.environment["power"]["not_readable"][0]


def test_without_a_timing_nothing_is_said_of_power(few_images: Path) -> None:
    assert "power" not in check_bundle(Bundle.open(few_images), **PINNED, rounds=0).environment


def replace_engine(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    """Put the real engine in place with outputs that are spoilt: by name, from the input and the output."""

    class Wrong(OnnxRuntimeEngine):
        def run(self, x: np.ndarray) -> np.ndarray:
            return spoil(self.output_spec.name, x, super().run(x))

    monkeypatch.setattr("purify_edge.engines.onnxruntime.OnnxRuntimeEngine", Wrong)


def three_of_256_turned(name: str, x: np.ndarray, output: np.ndarray) -> np.ndarray:
    if name == "logits" and len(x) == 64:
        output[0] = -output[0]
    return output


SPOILT: list[tuple[Spoil, str]] = [
    (lambda name, x, output: x if name == "purified" else output, "onnxruntime fp32 pipeline adversarial"),
    (lambda name, x, output: output * np.float32(np.nan), "onnxruntime fp32 classifier clean"),
    (three_of_256_turned, "onnxruntime fp32 defended clean"),
]


@pytest.mark.parametrize(("spoil", "where"), SPOILT, ids=["identity", "no numbers", "three wrong"])
def test_a_wrong_engine_breaks_a_limit(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, where: str
) -> None:
    replace_engine(monkeypatch, spoil)
    report = check_bundle(Bundle.open(bundle_path), **PINNED, rounds=0)
    assert not report.passed
    assert f"agreement, {where}" in [check.name for check in report.checks if not check.passed]


@pytest.mark.parametrize("alone", [lambda output: output[:, ::-1], lambda output: output * np.float32(np.nan)])
def test_images_alone_must_get_the_batchs_answers(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Callable[[np.ndarray], np.ndarray]
) -> None:
    """As a classifier gives others that uses the batch's statistics, or one whose batch is fixed in its graph."""
    replace_engine(monkeypatch, lambda name, x, output: alone(output) if (name, len(x)) == ("logits", 1) else output)
    report = check_bundle(Bundle.open(bundle_path), **PINNED, rounds=0)
    broken = {check.name for check in report.checks if not check.passed}
    assert broken == {
        f"relative error alone, onnxruntime fp32 {role} {split}"
        for role in ("classifier", "pipeline", "defended")
        for split in ("clean", "adversarial", "noise")
    }


@pytest.mark.parametrize(
    ("precision", "device", "limit"),
    [
        ("fp32", "cpu", 1e-4),
        ("fp32", "cuda:0", 0.005),
        ("fp16", "cpu", 0.01),
        ("fp16", "cuda:0", 0.01),
        ("bf16", "cpu", 0.1),
        ("int8", "cpu", 0.1),
    ],
)
def test_the_error_is_limited_by_what_multiplies(precision: str, device: str, limit: float) -> None:
    def verdicts(error: float, limits: Limits) -> list[tuple[str, bool]]:
        row = row_of(device=device, precision=precision, role="purifier", split="noise", relative_error=error)
        return [(found.name, found.passed) for found in checks_of([row], [], limits)]

    name = f"relative error, e {precision} purifier noise"
    assert verdicts(limit, Limits()) == [(name, True)]
    assert verdicts(1.01 * limit, Limits()) == verdicts(float("nan"), Limits()) == [(name, False)]
    assert verdicts(1.01 * limit, Limits(max_error=1.02 * limit)) == [(name, True)]


def test_noisy_images_are_not_judged_by_accuracy() -> None:
    row = row_of(split="noise", accuracy_reference=0.9, accuracy_engine=0.8, agreement=0.9)
    assert [found.name for found in checks_of([row], [], Limits())] == ["agreement, e fp32 defended noise"]


def test_the_relative_error_is_of_what_differs_between_images() -> None:
    reference = np.array([[1000.0, 5], [1002.0, 5]], np.float32)  # one number differs, by 1 from the mean
    assert relative_error(reference + np.float32(0.5), reference) == pytest.approx(0.5 * 2**0.5)
    assert relative_error(reference, reference) == 0
    alone = np.array([[3.0, 4.0]], np.float32)
    assert relative_error(alone * 2, alone) == pytest.approx(1)
    assert np.isnan(relative_error(reference * np.float32(np.nan), reference))


def test_all_engines_that_work_here_are_checked_and_others_named(few_images: Path) -> None:
    report = check_bundle(Bundle.open(few_images), engine="all", precisions=("fp32",), rounds=0)
    assert report.latency == ()
    checked = {row.engine for row in report.parity}
    assert "onnxruntime" in checked
    assert checked | {left_out.engine for left_out in report.not_checked} == set(ENGINES)
    assert all(left_out.reason for left_out in report.not_checked)


def test_a_model_that_cannot_run_is_named(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> np.ndarray:
        raise RuntimeError("broken shape")

    replace_engine(monkeypatch, broken)
    with pytest.raises(BundleError, match="the fp32 purifier cannot run the golden set: broken shape; export"):
        check_bundle(Bundle.open(bundle_path), **PINNED, rounds=0)


def test_the_limits_are_sharp() -> None:
    row = row_of(accuracy_reference=0.9, accuracy_engine=0.88, agreement=0.99)

    def verdicts(limits: Limits) -> list[bool]:
        return [found.passed for found in checks_of([row], [], limits)]

    assert verdicts(Limits(min_agreement=0.99, max_accuracy_drop=0.021)) == [True, True]
    assert verdicts(Limits(min_agreement=0.991, max_accuracy_drop=0.021)) == [False, True]
    assert verdicts(Limits(min_agreement=0.99, max_accuracy_drop=0.019)) == [True, False]


@pytest.mark.parametrize(
    ("n", "turned", "named", "passed"),
    [
        (100, 1, "agreement by its interval", True),
        (100, 2, "agreement by its interval", False),
        (199, 1, "agreement by its interval", True),
        (200, 1, "agreement", True),
        (200, 2, "agreement", False),
        (256, 2, "agreement", False),
    ],
)
def test_of_few_images_the_interval_is_judged(n: int, turned: int, named: str, passed: bool) -> None:
    """And of many the point: there a single image breaks no limit."""
    row = row_of(n=n, accuracy_reference=0.9, accuracy_engine=0.9, agreement=1 - turned / n)
    found = next(iter(checks_of([row], [], Limits())))
    assert (found.name.partition(",")[0], found.passed) == (named, passed)


@pytest.mark.parametrize(("lost", "passed"), [(0, True), (1, True), (2, False)])
def test_one_of_few_images_may_lose_its_class(lost: int, passed: bool) -> None:
    row = row_of(n=50, accuracy_reference=0.9, accuracy_engine=0.9 - lost / 50, agreement=1.0)
    assert [check.passed for check in checks_of([row], [], Limits())] == [True, passed]


@pytest.mark.parametrize(
    ("n", "engine", "limit", "passed"),
    [(100, 0.89, 0.01, True), (100, 0.88, 0.01, False), (200, 0.88, 0.02, True), (200, 0.875, 0.02, False)],
)
def test_a_drop_that_is_the_limit_keeps_it(n: int, engine: float, limit: float, passed: bool) -> None:
    """Though 0.9 - 0.89 is a little more than 0.01."""
    row = row_of(n=n, accuracy_reference=0.9, accuracy_engine=engine, agreement=1.0)
    *_, found = checks_of([row], [], Limits(max_accuracy_drop=limit))
    assert (found.name.partition(",")[0], found.passed) == ("accuracy drop", passed)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.995), ("fp16", 0.995), ("bf16", 0.95), ("int8", 0.95)])
def test_fewer_bits_may_turn_more_answers_but_not_lose_accuracy(precision: str, least: float) -> None:
    row = row_of(precision=precision, accuracy_reference=0.9, accuracy_engine=0.88, agreement=least - 0.001)
    found = [(check.limit, check.passed) for check in checks_of([row], [], Limits())]
    assert found == [(least, False), (0.01, False)]


def test_a_batch_is_as_large_as_it_is_said_to_be_even_of_few_images() -> None:
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    split = GoldenSplit(images, *[np.zeros(3)] * 4)  # type: ignore[arg-type]
    assert check.some_images(split, 7).ravel().tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_report_without_a_check_has_not_passed(few_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "checks_of", lambda *_: [])
    monkeypatch.setattr(check, "suspicion_checks", lambda *_, **__: [])
    monkeypatch.setattr(check, "decoder_checks", lambda *_: [])
    assert not check_bundle(Bundle.open(few_images), **PINNED, rounds=0).passed


def test_further_checks_must_hold_too(report: Report) -> None:
    good = Check(name="good", value=1, limit=2, passed=True)
    bad = Check(name="bad", value=3, limit=2, passed=False)
    assert report.with_checks(good).passed
    assert report.with_checks(good).checks[-1] == good
    assert not report.with_checks(good, bad).passed


def test_a_check_with_its_page_opens_each_model_once_and_reads_each_file_once(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real_init, real_bytes, read = OnnxRuntimeEngine.__init__, Path.read_bytes, Counter[str]()

    def init(self: OnnxRuntimeEngine, graph: bytes, *, source: str, **options: Any) -> None:
        opened.append(source)
        real_init(self, graph, source=source, **options)

    def read_bytes(path: Path) -> bytes:
        if path.is_relative_to(bundle_path):
            read[path.name] += 1
        return real_bytes(path)

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", init)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    options = ["--engine", "onnxruntime", "--precision", "all", "--rounds", "0", "--report", str(tmp_path / "r.html")]
    done = CliRunner().invoke(check_command, [str(bundle_path), *options])
    assert done.exit_code == 0, done.output
    roles = ("purifier", "classifier", "defended")
    models = [f"models/{role}.{precision}.onnx" for role in roles for precision in ("fp32", "fp16")]
    assert sorted(opened) == sorted(models)
    assert "golden.npz" in read
    assert set(read.values()) == {1}, read


def test_a_class_that_ties_with_pytorchs_agrees_and_no_other_does() -> None:
    logits = np.array([[2, 1.97, 0], [2, 1, 0], [0, 2, 1.97], [0, 0, 3]], np.float32)
    said = np.array([1, 1, 0, -1])  # a tie, another class, one that is not the one that ties, no answer
    assert agreeing(said, logits).tolist() == [True, False, False, False]
    assert agreeing(logits.argmax(axis=1), logits).all()
    engines = EngineSet("e", "1", "cpu", "fp32", {})
    row = parity_row(engines, "defended", "clean", logits[:, [1, 0, 2]], logits, logits.argmax(axis=1))
    assert (row.agreement, row.accuracy_engine) == (0.5, 0.25)  # of the swapped classes one ties
