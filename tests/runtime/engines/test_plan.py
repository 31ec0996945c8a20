"""The plan: which engine and precision a bundle gets, and that everything which runs a bundle follows it."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.fixtures import Imitate
from helpers.processes import wait_for
from purify_edge import Pipeline
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import LEAST_ANSWERS, Agreement
from purify_edge.check.check import check_bundle
from purify_edge.engines import agreement, onnxruntime, openvino, plan, registry
from purify_edge.engines.models import Models, Setup
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_edge.engines.plan import open_plan
from purify_edge.errors import BundleError, InputError, MissingError
from purify_edge.images.arrays import as_batch

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(bundle_path: Path, own_folders: Path) -> Bundle:
    return Bundle.open(bundle_path)


@pytest.fixture
def only_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no other engine."""
    monkeypatch.setattr(registry, "ENGINES", {"onnxruntime": registry.ENGINES["onnxruntime"]})


@pytest.fixture
def fast_fp16(monkeypatch: pytest.MonkeyPatch, only_onnxruntime: None) -> None:
    """A machine on which float16 is five times as fast."""
    monkeypatch.setattr(onnxruntime, "lossy_precisions", lambda: frozenset({"fp16"}))
    monkeypatch.setattr(plan, "_gain", lambda base, rival, bundle: 5.0)
    monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 60.0)  # this machine may be busy


@pytest.fixture
def x(bundle: Bundle) -> Any:
    return as_batch(load_golden(bundle)["adversarial"].images[:8], bundle.manifest.input)


def test_what_was_checked_is_what_runs(bundle: Bundle) -> None:
    """The speeds of two precisions may be close: whatever another opening may choose was checked too."""
    report = check_bundle(bundle, rounds=0)
    assert report.plan is not None
    checked = {(row.engine, row.precision) for row in report.parity}
    for _ in range(3):
        with Pipeline.load(bundle) as pipeline:
            assert {(way.setup.engine, way.setup.precision) for way in pipeline.planned.ways} <= checked
        assert {row.role for row in report.parity} == {"purifier", "classifier", "pipeline", "defended", "spared"}


@pytest.mark.usefixtures("fast_fp16")
def test_a_check_at_a_slow_moment_checks_what_runs_at_another(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 0.0)
    with open_plan(bundle, keep_others=True) as planned:  # as a check opens it
        checked = {str(way.setup) for way in (*planned.ways, *planned.others)}
    monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 60.0)
    with open_plan(bundle) as planned:
        assert planned.plan.precision == "fp16"
        assert {str(way.setup) for way in planned.ways} <= checked


def test_a_pinned_engine_and_precision_leave_one_way(bundle: Bundle) -> None:
    with open_plan(bundle, engine="onnxruntime", precision="fp32") as planned:
        assert planned.plan.ways == ("onnxruntime in fp32",)
        assert planned.plan.gain is None


def test_engines_of_a_cpu_take_turns_and_give_one_answer(bundle: Bundle, x: Any) -> None:
    pytest.importorskip("openvino")
    with open_plan(bundle, precision="fp32") as planned:
        engines = {way.setup.engine for way in planned.ways}
        assert engines == {"onnxruntime", "openvino"}
        expected = load_golden(bundle)["adversarial"].defended[:8]
        for _ in range(4 * len(planned.ways)):  # through the race
            np.testing.assert_allclose(planned.logits(x), expected, atol=1e-4)
            np.testing.assert_allclose(planned.both(x)[1], expected, atol=1e-4)
        assert set(planned.plan.running) == {"both, batch 8", "logits, batch 8"}


def test_it_changes_over_when_an_engine_becomes_slow(bundle: Bundle, x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("purify_edge.engines.lane.REST_S", 0.1)
    slow = set[str]()

    def delayed(run: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def delayed_run(engine: Any, x: np.ndarray) -> np.ndarray:
            time.sleep(0.1 if engine.name in slow else 0)
            return run(engine, x)

        return delayed_run

    for engine in (OnnxRuntimeEngine, openvino.OpenVinoEngine):
        monkeypatch.setattr(engine, "run", delayed(engine.run))
    with open_plan(bundle, precision="fp32") as planned:

        def running() -> str:
            planned.logits(x)
            return planned.plan.running["logits, batch 8"].partition(" ")[0]

        for other, fast in (("openvino", "onnxruntime"), ("onnxruntime", "openvino")):
            slow.clear()
            slow.add(other)
            wait_for(lambda fast=fast: running() == fast)  # type: ignore[misc]


def test_an_engine_that_fails_in_use_leaves_the_calls_to_the_others(
    bundle: Bundle, x: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    with open_plan(bundle, precision="fp32") as planned:

        def fails(self: OnnxRuntimeEngine, x: np.ndarray) -> np.ndarray:
            raise RuntimeError("out of luck")

        monkeypatch.setattr(OnnxRuntimeEngine, "run", fails)
        expected = load_golden(bundle)["adversarial"].defended[:8]
        for _ in range(6 * len(planned.ways)):
            np.testing.assert_allclose(planned.logits(x), expected, atol=1e-4)
        assert "openvino" in planned.plan.running["logits, batch 8"]
    assert "onnxruntime in fp32 failed, and takes no more such calls: out of luck" in caplog.text
    with open_plan(bundle, engine="onnxruntime", precision="fp32") as pinned, pytest.raises(RuntimeError):
        pinned.logits(x)


def test_a_call_that_no_engine_can_answer_is_not_held_against_them(bundle: Bundle, x: Any) -> None:
    with open_plan(bundle, precision="fp32") as planned:
        with pytest.raises(Exception, match=r"."):
            planned.logits(np.zeros((8, 1, 5, 5), np.float32))
        assert all(lane.others(0) for lane in planned._lanes.values())
        assert planned.logits(x).shape == (8, 10)


def test_a_closed_pair_opens_no_engine_again(bundle: Bundle, x: Any) -> None:
    planned = open_plan(bundle)
    planned.close()
    for use in (lambda: planned.logits(x), lambda: planned.both(x), lambda: planned.plan):
        with pytest.raises(InputError, match="the pipeline is closed"):
            use()
    assert not any(way._engines for way in planned.ways)


def test_a_lossy_precision_that_gains_little_is_left(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 60.0)
    monkeypatch.setattr(onnxruntime, "lossy_precisions", lambda: frozenset({"fp16"}))
    monkeypatch.setattr(openvino, "lossy_precisions", frozenset)
    gains = {"openvino": 3.0, "onnxruntime": 1.05}
    monkeypatch.setattr(plan, "_gain", lambda base, rival, bundle: gains[base.setup.engine])
    with open_plan(bundle) as planned:
        assert planned.plan.precision == "fp32"
        assert planned.plan.left_out["onnxruntime in fp16"] == "is 1.05 times as fast as float32"


def test_an_engine_that_cannot_load_the_graph_is_left_out(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    def cannot(*arguments: object, **options: object) -> None:
        raise BundleError("OpenVINO cannot load it")

    monkeypatch.setattr(openvino, "OpenVinoEngine", cannot)
    with open_plan(bundle) as planned:
        assert {way.setup.engine for way in planned.ways} == {"onnxruntime"}
        assert planned.plan.left_out["openvino"] == "OpenVINO cannot load it"
    monkeypatch.setattr(onnxruntime, "OnnxRuntimeEngine", cannot)
    with pytest.raises(BundleError, match="cannot load it"):
        open_plan(bundle)


def test_an_engine_that_answers_otherwise_takes_no_turns(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    class Wrong(OnnxRuntimeEngine):
        def run(self, x: np.ndarray) -> np.ndarray:
            return super().run(x) * np.float32(1.001)

    monkeypatch.setattr(onnxruntime, "OnnxRuntimeEngine", Wrong)
    with open_plan(bundle, precision="fp32") as planned:
        assert {way.setup.engine for way in planned.ways} == {"openvino"}
        assert "its logits are off by" in planned.plan.left_out["onnxruntime in fp32"]


@pytest.mark.usefixtures("fast_fp16")
def test_a_lossy_precision_that_is_faster_and_agrees_is_taken_and_says_so(bundle: Bundle, x: Any) -> None:
    with open_plan(bundle) as planned:
        found = planned.plan
        assert (found.precision, found.gain) == ("fp16", 5.0)
        assert found.agreement is not None
        assert found.agreement.n >= LEAST_ANSWERS
        assert "5.0 times as fast as float32 here" in str(found)
        assert f"{found.agreement.same} of {found.agreement.n} golden answers are as PyTorch's" in str(found)
        np.testing.assert_allclose(planned.logits(x), load_golden(bundle)["adversarial"].defended[:8], atol=0.5)


@pytest.mark.usefixtures("fast_fp16")
def test_a_lossy_precision_of_which_three_answers_of_512_differ_is_left(bundle: Bundle) -> None:
    golden = load_golden(bundle)
    answers = golden["clean"].defended.copy()
    answers[:3] = -answers[:3]
    other: Mapping[str, GoldenSplit] = {**golden, "clean": replace(golden["clean"], defended=answers)}
    with open_plan(bundle, golden=lambda: other) as planned:
        assert planned.plan.precision == "fp32"
        assert "too few for a lossy precision" in planned.plan.left_out["onnxruntime in fp16"]


@pytest.mark.usefixtures("fast_fp16")
def test_classes_that_tie_count_as_the_same(bundle: Bundle) -> None:
    golden = load_golden(bundle)
    answers = golden["clean"].defended.copy()
    best, second = answers[:9].argsort(axis=1)[:, :-3:-1].T
    answers[range(9), second] = answers[range(9), best] + 1e-3
    assert (answers[:9].argmax(axis=1) == second).all()
    other: Mapping[str, GoldenSplit] = {**golden, "clean": replace(golden["clean"], defended=answers)}
    with open_plan(bundle, golden=lambda: other) as planned:
        assert planned.plan.precision == "fp16"
        assert planned.plan.agreement is not None
        assert planned.plan.agreement.same == 512


@pytest.mark.usefixtures("fast_fp16")
def test_the_agreement_is_measured_once_for_a_bundle_and_a_device(bundle: Bundle) -> None:
    loads: list[int] = []

    def golden() -> Mapping[str, GoldenSplit]:
        loads.append(1)
        return load_golden(bundle)

    for _ in range(2):
        with open_plan(bundle, golden=golden) as planned:
            assert planned.plan.agreement is not None
    assert len(loads) == 1


def test_what_a_slow_moment_did_not_finish_is_not_remembered(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 0.0)
    with Models(bundle, Setup("onnxruntime", "fp16", "fp16")) as models:
        first = agreement.agreement_of(models, bundle, lambda: load_golden(bundle))
        assert first.n < LEAST_ANSWERS
        assert not first.admits("fp16")
        monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 60.0)
        assert agreement.agreement_of(models, bundle, lambda: load_golden(bundle)).n == 512


@pytest.mark.parametrize(
    ("found", "precision", "admitted"),
    [
        (Agreement(n=400, same=398, error=0.02), "bf16", True),
        (Agreement(n=400, same=397, error=0.02), "bf16", False),
        (Agreement(n=199, same=199, error=0.02), "bf16", False),
        (Agreement(n=32, same=32, error=1e-5), "fp32", True),
        (Agreement(n=512, same=512, error=2e-4), "fp32", False),
        (Agreement(n=512, same=512, error=float("nan")), "fp32", False),
    ],
)
def test_who_is_admitted(found: Agreement, precision: str, admitted: bool) -> None:
    assert found.admits(precision) is admitted


def test_bfloat16_of_float32_graphs_is_checked_like_any_other(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    if "bf16" not in openvino.lossy_precisions():
        with pytest.raises(MissingError, match=r"in bfloat16, which this CPU .* does not have"):
            open_plan(bundle, precision="bf16")
        return
    report = check_bundle(bundle, precisions=("bf16",), rounds=0)
    assert {(row.engine, row.precision) for row in report.parity} == {("openvino", "bf16")}
    errors = {row.relative_error for row in report.parity if row.role == "defended"}
    assert all(error is not None and error > 1e-4 for error in errors)  # it is not float32 after all


@pytest.mark.parametrize("missing", ["openvino", "onnxruntime"])
def test_one_engine_is_enough(bundle: Bundle, x: Any, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = pytest.importorskip({"openvino": "onnxruntime", "onnxruntime": "openvino"}[missing])
    monkeypatch.setitem(sys.modules, missing, None)  # importing it now raises ImportError
    with open_plan(bundle, keep_others=True) as planned:
        assert {way.setup.engine for way in (*planned.ways, *planned.others)} == {other.__name__}
        assert f"needs '{'openvino' if missing == 'openvino' else 'cpu'}'" in planned.plan.left_out[missing]
        assert planned.logits(x).shape == (8, 10)


@pytest.mark.usefixtures("only_onnxruntime")
def test_where_nothing_works_every_reason_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*arguments: object, **options: object) -> None:
        raise MissingError("needs 'cpu': pip install 'purify-edge[cpu]'")

    monkeypatch.setattr(onnxruntime, "OnnxRuntimeEngine", cannot)
    with pytest.raises(MissingError, match=r"no engine works here: .*onnxruntime.* needs 'cpu'"):
        open_plan(bundle)


def test_opening_builds_no_engine_of_a_precision_that_was_not_asked_for(unbuilt_bundle: Path, imitate: Imitate) -> None:
    imitate()
    with open_plan(Bundle.open(unbuilt_bundle)) as planned:
        assert (planned.plan.engine, planned.plan.precision) == ("rtx", "fp32")
        assert planned.plan.left_out["rtx in fp16"] == "no engine of it is built yet; purify-build builds it"
    with open_plan(Bundle.open(unbuilt_bundle), precision="fp16"):
        pass
    with open_plan(Bundle.open(unbuilt_bundle)) as planned:
        assert "no engine" not in planned.plan.left_out.get("rtx in fp16", "")


def test_a_lossy_engine_that_is_built_runs_where_float32_would_have_to_be_built(
    unbuilt_bundle: Path, imitate: Imitate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "LOSSY_LIMIT_S", 60.0)
    world = imitate()
    open_plan(Bundle.open(unbuilt_bundle), precision="fp16").close()
    builds = len(world.builds)
    with open_plan(Bundle.open(unbuilt_bundle)) as planned:
        assert (planned.plan.precision, planned.plan.gain) == ("fp16", None)
        assert planned.plan.agreement is not None
    assert len(world.builds) == builds


def test_everything_that_was_opened_is_closed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Models] = []
    closed: list[Models] = []
    real_init, real_close = Models.__init__, Models.close

    def init(self: Models, *arguments: Any, **options: Any) -> None:
        real_init(self, *arguments, **options)
        opened.append(self)

    def close(self: Models) -> None:
        closed.append(self)
        real_close(self)

    monkeypatch.setattr(Models, "__init__", init)
    monkeypatch.setattr(Models, "close", close)
    open_plan(bundle).close()
    assert set(map(id, opened)) == set(map(id, closed))
