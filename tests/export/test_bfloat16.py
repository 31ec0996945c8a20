"""bfloat16 on a CPU: OpenVINO runs it, ONNX Runtime cannot, and everything says so or goes on."""

import hashlib
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from lab.speed.bars import BEST_BY_HAND, bars_of
from lab.speed.contestants import HAND, LABELS, gather
from lab.speed.rounds import measure
from purify_edge import Pipeline
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import FileEntry, ModelEntry, encode_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import check_bundle
from purify_edge.engines import openvino as module
from purify_edge.engines.registry import open_engine
from purify_edge.errors import MissingError
from purify_edge.images.arrays import as_batch
from purify_edge.stats import relative_error
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.half_from_fp32 import half_from_fp32, rounding_from_half
from purify_export.export import ExportResult
from purify_export.simulation import Simulation


def has_bfloat16() -> bool:
    """Whether OpenVINO is here, on a CPU with bfloat16."""
    try:
        core = module.core()
    except MissingError:
        return False
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="no OpenVINO, or no bfloat16 on this CPU")
ABSENT = r"openvino needs 'openvino': pip install.*onnxruntime ONNX Runtime has no kernels for"


@pytest.fixture
def bundle(bundle_copy: Path, pair: GraphPair) -> Bundle:
    """A bundle in float32 and bfloat16; the purifier's first layer stays in float32."""
    opened = Bundle.open(bundle_copy)
    first = next(node.name for node in pair.purifier.graph.node if node.op_type == "Conv")
    graphs = {"purifier": pair.purifier, "classifier": pair.classifier, "defended": pair.defended()}
    entries = [entry for entry in opened.manifest.models if entry.precision == "fp32"]
    for role, exact in graphs.items():
        content = half_from_fp32(exact, "bf16", keep=[first, f"purifier/{first}"]).SerializeToString()
        path = f"models/{role}.bf16.onnx"
        (bundle_copy / path).write_bytes(content)
        file = FileEntry(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        entries.append(ModelEntry(role=role, precision="bf16", file=file))
    manifest = msgspec.structs.replace(opened.manifest, models=tuple(entries))
    (bundle_copy / "manifest.json").write_bytes(encode_manifest(manifest))
    return Bundle.open(bundle_copy)


@needs_bfloat16
def test_each_layer_computes_in_the_graphs_own_precision(
    bundle: Bundle, pair: GraphPair, adversarial: GoldenSplit
) -> None:
    graph = bundle.read(bundle.model("purifier", "bf16").file)
    x = as_batch(adversarial.images[:64], bundle.manifest.input)
    with module.OpenVinoEngine(graph, source="p") as engine:
        layers = [node.get_rt_info() for node in engine._model.get_runtime_model().get_ops()]
        told = [[layer[key].astype(str) for key in ("layerType", "runtimePrecision")] for layer in layers]
        found = engine.run(x)
    computed = [precision for kind, precision in told if kind == "Convolution"]
    assert sorted(set(computed)) == ["bf16", "f32"]
    assert computed.count("f32") == 1
    first = next(node.name for node in pair.purifier.graph.node if node.op_type == "Conv")
    simulated = rounding_from_half(half_from_fp32(pair.purifier, "bf16", keep=[first])).SerializeToString()
    with Simulation(simulated, source="s") as simulation:
        expected = simulation.run(x)
    lost = relative_error(expected, adversarial.purified[:64])
    assert 1e-4 < relative_error(found, expected) < 2 * lost
    assert 1e-4 < relative_error(found, adversarial.purified[:64]) < 2 * lost  # as much as the gate's simulation tells


def test_a_cpu_without_bfloat16_is_told_of(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(module, "lossy_precisions", frozenset)
    graphs = {name: bundle.read(bundle.model("purifier", name).file) for name in ("fp32", "bf16")}
    with pytest.raises(MissingError, match=r"^p is to run in bfloat16, which this CPU \(.+\) does not have; take"):
        open_engine("openvino", graphs["bf16"], source="p")
    open_engine("openvino", graphs["fp32"], source="p").close()


@needs_bfloat16
def test_auto_takes_openvino(bundle: Bundle, adversarial: GoldenSplit) -> None:
    with Pipeline.load(bundle.path, precision="bf16") as pipeline:
        prediction = pipeline.predict(adversarial.images)
        assert (pipeline.plan.engine, pipeline.plan.precision) == ("openvino", "bf16")
    assert (prediction.labels == adversarial.defended.argmax(axis=1)).mean() > 0.95
    assert 1e-4 < relative_error(prediction.purified, adversarial.purified) < 0.1


@needs_bfloat16
def test_a_check_takes_for_each_precision_an_engine_that_runs_it(bundle: Bundle) -> None:
    report = check_bundle(bundle, precisions=("all",), rounds=0)
    limited = [check for check in report.checks if " openvino bf16 " in check.name]
    assert len(limited) >= 30
    # Without the range scan, which this graph has not seen, the suspicion score moves on noise.
    assert [check for check in limited if not check.passed and "suspicious" not in check.name] == []
    checked = {(row.precision, row.engine) for row in report.parity}
    assert {("fp32", "onnxruntime"), ("bf16", "openvino")} <= checked
    assert ("bf16", "onnxruntime") not in checked
    assert report.not_checked == ()


def test_without_openvino_a_check_says_what_it_leaves_out(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it now raises ImportError
    report = check_bundle(bundle, precisions=("all",), rounds=0)
    assert {row.precision for row in report.parity} == {"fp32"}
    (left_out,) = report.not_checked
    assert (left_out.precision, left_out.engine) == ("bf16", "")
    assert "pip install 'purify-edge[openvino]'" in left_out.reason
    with pytest.raises(MissingError, match=ABSENT):
        check_bundle(bundle, precisions=["bf16"], rounds=0)


@pytest.mark.parametrize("absent", [pytest.param("onnxruntime", marks=needs_bfloat16), "openvino"])
def test_a_benchmark_names_who_cannot_run_and_times_the_others(
    absent: str, bundle: Bundle, adversarial: GoldenSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision, engine = ("bf16", "openvino") if absent == "onnxruntime" else ("fp32", "onnxruntime")
    if absent == "openvino":
        monkeypatch.setitem(sys.modules, "openvino", None)
    with ExitStack() as stack:
        found = gather(bundle.path, precision, engine, None, stack)
        rows = measure(found.calls, adversarial.images[:1], rounds=3, budget_s=0, reference=LABELS)
    told = {"onnxruntime": "no kernels for it", "openvino": "pip install 'purify-edge[openvino]'"}[absent]
    assert told in found.not_run[f"{HAND}{absent}"]
    assert {row.contestant for row in rows} >= {LABELS, f"{HAND}{engine}, composed", f"{HAND}{engine}, chained"}
    assert not any(row.contestant.startswith(f"{HAND}{absent}") for row in rows)
    bars = {bar.name: bar for bar in bars_of(rows, None, None, found.not_run)}
    assert any(f"against {BEST_BY_HAND} ({engine}" in name for name in bars)


@needs_bfloat16
def test_the_gate_checks_it_on_openvino_too(exported: ExportResult) -> None:
    report = exported.report
    assert {row.engine for row in report.parity if row.precision == "bf16"} == {"simulation", "openvino"}
    assert any(check.name.startswith("relative error, openvino bf16") for check in report.checks)
    assert json.loads((exported.bundle.path / "report.json").read_text())["not_checked"] == []
