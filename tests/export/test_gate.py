import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers.graphs import Hidden, export, graph, node
from helpers.reports import parity
from helpers.trained import Blur, Saturating, quadrants
from purify_edge import export as export_pair
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import NotChecked, ParityRow, Report
from purify_edge.check.limits import Limits, checks_of
from purify_edge.engines.registry import engines_on
from purify_edge.machine import integers_may_saturate
from purify_export.convert.convert import ConversionInput, Converted, convert
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.half_from_fp32 import half_from_fp32
from purify_export.convert.int8_from_fp32 import int8_from_fp32
from purify_export.gate import first_divergence, gate
from purify_export.images.golden import golden_set
from purify_export.networks import Networks
from purify_export.simulation import without_saturated
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder

IMAGES = np.random.default_rng(0).random((8, 1, 28, 28), dtype=np.float32)


def test_a_sound_conversion_diverges_nowhere(pair: GraphPair) -> None:
    model = pair.defended()
    assert first_divergence(model, model, IMAGES, tolerance=0.0) is None
    assert first_divergence(half_from_fp32(model, "fp16"), model, IMAGES, tolerance=0.02) is None
    assert first_divergence(int8_from_fp32(model, IMAGES), model, IMAGES, tolerance=0.5) is None


@pytest.mark.parametrize("position", [3, 10])
def test_the_first_layer_that_differs_is_named_and_not_one_after_it(pair: GraphPair, position: int) -> None:
    model = pair.defended()
    layer = [node for node in model.graph.node if node.op_type == "Conv"][position]
    wrong = half_from_fp32(model, "fp16")
    (stored,) = (tensor for tensor in wrong.graph.initializer if tensor.name == f"{layer.input[1]}_fp16")
    stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float16(1.5), stored.name))
    found = first_divergence(wrong, model, IMAGES, tolerance=0.02)
    assert found is not None
    assert (found[0].node, found[0].operator, found[0].weight) == (layer.name, "Conv", layer.input[1])
    assert 0.1 < found[1] < 2


def test_an_image_at_a_time_shows_the_same_layer(pair: GraphPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with 224 x 224 pixels: then a part has nothing that differs between its images."""
    model = pair.defended()
    whole = first_divergence(half_from_fp32(model, "bf16"), model, IMAGES, tolerance=0.004)
    monkeypatch.setattr("purify_export.convert.graphs.BATCH_PIXELS", 28 * 28)
    assert first_divergence(half_from_fp32(model, "fp16"), model, IMAGES, tolerance=0.02) is None
    single = first_divergence(half_from_fp32(model, "bf16"), model, IMAGES, tolerance=0.004)
    assert whole is not None
    assert single is not None
    assert single == (whole[0], pytest.approx(whole[1], rel=1e-3))


def test_what_is_the_same_for_all_images_does_not_diverge_by_rounding() -> None:
    weights = {"a": np.float32(1 / 3), "b": np.float32(0.7)}
    model = graph([node("Mul", ["a", "b"], "scalar"), node("Add", ["images", "scalar"], "answer")], weights)
    assert first_divergence(half_from_fp32(model, "fp16"), model, IMAGES[:, :, :2, :2], tolerance=0.02) is None


def test_an_overflow_that_onnx_runtime_hides_diverges() -> None:
    model = export(Hidden(), (1, 4, 4))
    found = first_divergence(half_from_fp32(model, "fp16"), model, IMAGES[:, :, :4, :4], tolerance=0.02)
    assert found is not None
    assert found[0].weight == "grow.weight"
    assert found[1] == np.inf


@pytest.fixture(scope="module")
def splits(networks: Networks, shipped: RunFolder) -> dict[str, GoldenSplit]:
    samples = shipped.load_samples()
    few = Split(samples.images[:8], samples.labels[:8])
    return golden_set(networks, few, shipped.recipe.evaluation, seed=0)[0]


def empty() -> Report:
    return Report(environment={}, parity=(), latency=(), checks=(), passed=True)


def test_bfloat16_is_simulated_and_said_not_to_be_checked(
    bundle_path: Path, pair: GraphPair, splits: dict[str, GoldenSplit]
) -> None:
    converted = {name: convert(ConversionInput(pair, splits), name) for name in ("fp32", "bf16")}
    left = NotChecked(engine="onnxruntime", precision="fp16", reason="no kernel for it")
    known = msgspec.structs.replace(empty(), not_checked=(left, NotChecked(precision="bf16", reason="no engine")))
    report = gate(known, Bundle.open(bundle_path), converted, splits, Limits(max_accuracy_drop=0.2))
    assert {(row.engine, row.precision) for row in report.parity} == {("simulation", "bf16")}
    assert len(report.parity) == 5 * 3
    differences = [row.max_abs_diff for row in report.parity if row.role == "purifier"]
    assert all(1e-4 < difference < 0.05 for difference in differences)
    other, unchecked = report.not_checked
    assert other == left
    assert unchecked.precision == "bf16"
    assert "only simulated here" in unchecked.reason
    assert any(check.name == "relative error, simulation bf16 purifier clean" for check in report.checks)
    assert report.diverging == ()


def test_a_broken_graph_is_caught_by_its_error_and_its_layer_is_reported(
    bundle_path: Path, pair: GraphPair, splits: dict[str, GoldenSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(pair.purifier)
    (head,) = (tensor for tensor in broken.graph.initializer if tensor.name == "head.bias")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + 1, head.name))
    converted = {
        "fp32": convert(ConversionInput(pair, splits), "fp32"),
        "bf16": convert(ConversionInput(GraphPair(broken, pair.classifier), splits), "bf16"),
    }
    report = gate(empty(), Bundle.open(bundle_path), converted, splits, Limits(max_accuracy_drop=1.0))
    assert not report.passed
    found = {(entry.split, entry.node, entry.operator, entry.weight) for entry in report.diverging}
    assert found == {
        (split, "purifier/node_conv2d_11", "Conv", "purifier/head.weight")
        for split in ("clean", "adversarial", "noise")
    }
    assert all(entry.error > entry.tolerance for entry in report.diverging)


def judged(*rows: ParityRow) -> Report:
    """A report of rows, with their limits."""
    checks = tuple(checks_of(rows, [], Limits()))
    return Report(environment={}, parity=rows, latency=(), checks=checks, passed=all(check.passed for check in checks))


SOUND, WRONG = 180, 100  # right answers of 200
WRITTEN = parity("simulation", "int8", "defended", "clean", SOUND)


def test_what_sums_in_16_bits_break_is_not_checked_and_its_figures_stay() -> None:
    rows = WRITTEN, *(parity(engine, "int8", "defended", "clean", WRONG) for engine in engines_on("cpu"))
    sound = parity("onnxruntime", "fp32", "defended", "clean", SOUND)
    found = without_saturated(judged(*rows, msgspec.structs.replace(sound, agreement=1.0, relative_error=0.0)))
    assert not judged(*rows).passed
    assert found.passed
    assert {(left.engine, left.precision) for left in found.not_checked} == {
        ("openvino", "int8"),
        ("onnxruntime", "int8"),
    }
    reason = found.not_checked[0].reason
    assert all(words in reason for words in ("no VNNI", "broke 1 limit.", "Do not run INT8 here", "purify-check"))
    assert found.parity[:3] == rows
    assert not any(check.name.startswith("accuracy drop, openvino") for check in found.checks)
    assert any(check.name.startswith("agreement, openvino int8") for check in found.checks)  # it holds


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (msgspec.structs.replace(WRITTEN, accuracy_engine=0.5),),
        (msgspec.structs.replace(WRITTEN, precision="bf16"),),
    ],
    ids=["nothing simulated", "a graph at fault", "another precision simulated"],
)
def test_without_a_sound_simulation_of_int8_what_it_breaks_stays_broken(rows: tuple[ParityRow, ...]) -> None:
    report = judged(*rows, parity("openvino", "int8", "defended", "clean", WRONG))
    assert not report.passed
    assert without_saturated(report) == report


@pytest.mark.parametrize(("engine", "precision"), [("tensorrt", "int8"), ("onnxruntime", "bf16")])
def test_saturated_sums_excuse_neither_a_gpu_nor_another_precision(engine: str, precision: str) -> None:
    report = judged(WRITTEN, parity(engine, precision, "defended", "clean", WRONG))
    assert not report.passed
    assert without_saturated(report) == report


@pytest.mark.parametrize("saturating", [True, False])
def test_int8_is_simulated_where_sums_may_saturate(
    bundle_path: Path,
    pair: GraphPair,
    splits: dict[str, GoldenSplit],
    monkeypatch: pytest.MonkeyPatch,
    saturating: bool,
) -> None:
    monkeypatch.setattr("purify_export.simulation.integers_may_saturate", lambda: saturating)
    int8 = GraphPair(int8_from_fp32(pair.purifier, IMAGES), int8_from_fp32(pair.classifier, IMAGES))
    graphs = {"purifier": int8.purifier, "classifier": int8.classifier, "defended": int8.defended()}
    limits = Limits(min_agreement=0.0, max_accuracy_drop=1.0, max_error=2.0, max_flagged_change=1.0)
    report = gate(empty(), Bundle.open(bundle_path), {"int8": Converted(graphs)}, splits, limits)
    assert {(row.engine, row.precision) for row in report.parity} == ({("simulation", "int8")} if saturating else set())
    names = {check.name for check in report.checks}
    assert ("change of what is suspicious, simulation int8 pipeline clean" in names) == saturating
    assert report.passed


def test_an_export_passes_where_only_this_processors_sums_break_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On x86-64 without VNNI both engines give every image the same class; elsewhere they are sound."""
    monkeypatch.setattr("purify_export.simulation.integers_may_saturate", lambda: True)
    split, out = quadrants(channels=1, count=400), tmp_path / "bundle"
    networks = Blur().eval(), Saturating().eval()
    images, labels = split.images.permute(0, 2, 3, 1).numpy(), split.labels.numpy()
    bundle, report = export_pair(
        *networks, images, labels, out=out, fp16=False, int8=True, targets=["onnx"], served="float32", rounds=0
    )
    assert report.passed, [check for check in report.checks if not check.passed]
    assert (bundle.path, bundle.manifest.failed) == (out, ())
    agreements = {
        (row.engine, row.split): row.agreement
        for row in report.parity
        if (row.precision, row.role) == ("int8", "defended")
    }
    assert agreements["simulation", "clean"] == 1
    wrong = {engine for (engine, split), agreement in agreements.items() if split == "clean" and agreement < 0.5}
    assert bool(wrong) == integers_may_saturate()
    served = {"onnxruntime"} if wrong else set()  # runs the graphs for servers
    assert {left.engine for left in report.not_checked} == wrong | served
    assert report.diverging == ()
    stored = json.loads((bundle.path / "report.json").read_text())
    assert len(stored["not_checked"]) == len(report.not_checked)
