"""The served graph: all of a bundle in one graph, for programs that have no code of ours."""

import shutil
from copy import deepcopy
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from helpers.bundles import overtaken, replace
from helpers.trained import quadrants
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import InputContract, Pixels, SpareEntry, SuspicionEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.check import served as served_check
from purify_edge.check.check import check_bundle
from purify_edge.check.limits import Limits
from purify_edge.engines.tensorrt.build import build_engine
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import InputError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.sparing import change_of, is_spared, spare
from purify_edge.pipeline.suspicion import suspicion_of
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.served import served
from purify_export.engines import targets_from
from purify_export.export import ExportResult, check_order, export
from purify_export.networks import Networks
from purify_export.options import ExportOptions

SPLIT = quadrants(channels=3, count=300)
GREY = InputContract(channels=1, height=28, width=28)
OLD = SuspicionEntry(threshold=1.0, false_positive_rate=0.01, n=99, images="here", score="logit-change")


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
@pytest.mark.parametrize("entry", [None, OLD])
@pytest.mark.parametrize("count", [1, 5])
def test_it_gives_what_pytorch_gives(
    pair: GraphPair,
    networks: Networks,
    adversarial: GoldenSplit,
    pixels: Pixels,
    entry: SuspicionEntry | None,
    count: int,
) -> None:
    images = adversarial.images[:count]
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        purified, raw = networks.purifier(x), networks.classifier(x)
        logits = networks.classifier(purified)
    model = served(deepcopy(pair), GREY, entry, pixels)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, images if pixels == "uint8" else x.numpy())
    assert list(found) == ["probabilities", "suspicion", "purified"]
    np.testing.assert_allclose(found["probabilities"], logits.softmax(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(found["purified"], purified.numpy(), atol=1e-5)
    score = ("logit-change",) if entry else ()
    np.testing.assert_allclose(found["suspicion"], suspicion_of(raw.numpy(), logits.numpy(), *score), rtol=1e-3)


@pytest.mark.parametrize("entry", [None, OLD])
def test_it_spares_clean_images_as_the_pipeline_does(
    pair: GraphPair, networks: Networks, adversarial: GoldenSplit, entry: SuspicionEntry | None
) -> None:
    x = torch.from_numpy(adversarial.images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        raw, logits = networks.classifier(x).numpy(), networks.classifier(networks.purifier(x)).numpy()
    changes = np.sort(change_of(raw, logits))
    middle = len(changes) // 2
    rule = SpareEntry(threshold=float(changes[middle - 1 : middle + 1].mean()), rate=0.05, n=19, images="here")
    model = served(deepcopy(pair), GREY, entry, "float32", rule)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, x.numpy())
    assert list(found) == ["probabilities", "suspicion", "purified", "spared"]
    assert found["spared"].tolist() == is_spared(raw, logits, rule).tolist()
    assert found["spared"].sum() == middle
    expected = torch.from_numpy(spare(raw, logits, rule)).softmax(1).numpy()
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)


def test_an_image_without_finite_logits_is_not_spared(pair: GraphPair) -> None:
    rule = SpareEntry(threshold=1e9, rate=0.05, n=19, images="here")
    x = np.zeros((2, 1, 28, 28), np.float32)
    x[1] = np.nan
    found = run(served(deepcopy(pair), GREY, None, "float32", rule), x)
    assert found["spared"].tolist() == [1, 0]
    assert np.isnan(found["probabilities"][1]).all()


def test_the_weights_are_there_once(pair: GraphPair) -> None:
    halves = pair.purifier.ByteSize() + pair.classifier.ByteSize()
    assert served(deepcopy(pair), GREY, None, "float32").ByteSize() < 1.05 * halves


def test_graphs_of_an_older_opset_are_brought_to_a_later_one(pair: GraphPair, adversarial: GoldenSplit) -> None:
    old = GraphPair(*(onnx.version_converter.convert_version(graph, 17) for _, graph in pair.items()))
    found, expected = (
        run(served(deepcopy(halves), GREY, None, "uint8"), adversarial.images[:8]) for halves in (old, pair)
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [None, SpareEntry(threshold=1.0, rate=0.05, n=19, images="here")])
@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_tensorrt_for_rtx_builds_it(pair: GraphPair, pixels: Pixels, rule: SpareEntry | None) -> None:
    pytest.importorskip("tensorrt_rtx")
    (target,) = targets_from(["rtx"], BuildOptions(), ("fp32",), print)
    graph = served(deepcopy(pair), GREY, None, pixels, rule).SerializeToString()
    built = build_engine(
        graph, library=target.library, options=BuildOptions(), precision="fp32", source=pixels, device=target.device
    )
    assert built.content


@pytest.fixture(scope="module")
def with_served(own: tuple[nn.Module, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle with served graphs of bytes; not to be changed."""
    images, labels = SPLIT.images.permute(0, 2, 3, 1).numpy(), SPLIT.labels.numpy()
    out = tmp_path_factory.mktemp("served") / "bundle"
    return export(*own, images, labels, out=out, served="uint8", int8=True, epsilon=0.1, rounds=0, targets=["onnx"])


def served_checks(report: Report) -> dict[str, bool]:
    return {check.name: check.passed for check in report.checks if " served " in check.name}


def test_a_bundle_has_it_in_every_precision_and_checks_it(with_served: ExportResult) -> None:
    models = [model for model in with_served.bundle.manifest.models if model.role == "served"]
    assert [(model.precision, model.pixels) for model in models] == [
        (precision, "uint8") for precision in ("fp32", "fp16", "int8")
    ]
    assert with_served.report.passed
    assert with_served.bundle.manifest.suspicion is None  # of so few images
    names = served_checks(with_served.report)
    for precision in ("fp32", "fp16", "int8"):
        for split in ("clean", "adversarial", "noise"):
            assert names[f"agreement, onnxruntime {precision} served {split}"]
    errors = {name for name in names if name.startswith("relative error of")}
    assert errors == {
        f"relative error of {output}, onnxruntime fp32 served {split}"
        for output in ("probabilities", "suspicion", "purified")
        for split in ("clean", "adversarial", "noise")
    }


def test_another_bundle_has_none(exported: ExportResult) -> None:
    assert not served_checks(exported.report)


def test_a_graph_that_scores_otherwise_is_found(with_served: ExportResult, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(with_served.bundle.path, tmp_path / "bundle"))
    opened = Bundle.open(copy)
    halves = GraphPair(
        *(
            onnx.load_model_from_string(opened.read(opened.model(role, "fp32").file))
            for role in ("purifier", "classifier")
        )
    )
    wrong = served(halves, opened.manifest.input, OLD, "uint8")
    replace(copy, "models/served.fp32.onnx", wrong.SerializeToString())
    report = check_bundle(Bundle.open(copy), engine="onnxruntime", precisions=["fp32"], rounds=0)
    assert not report.passed
    broken = {name for name, passed in served_checks(report).items() if not passed}
    assert broken == {
        f"relative error of suspicion, onnxruntime fp32 served {split}" for split in ("clean", "adversarial", "noise")
    }


@pytest.mark.parametrize(("by", "share"), [(0.02, 1.0), (0.2, 0.0)], ids=["a tie", "another class"])
def test_a_class_that_ties_with_pytorchs_agrees(with_served: ExportResult, by: float, share: float) -> None:
    golden = {name: overtaken(split, by) for name, split in load_golden(with_served.bundle).items() if name != "noise"}
    checks, _ = served_check.served_checks(with_served.bundle, golden, ["fp32"], Limits())
    agreements = {check.name: check.value for check in checks if check.name.startswith("agreement")}
    assert list(agreements.values()) == [share, share]


def test_its_metadata_say_what_it_is(with_served: ExportResult) -> None:
    manifest = with_served.bundle.manifest
    model = next(model for model in manifest.models if model.role == "served")
    graph = onnx.load_model_from_string(with_served.bundle.read(model.file))
    said = {entry.key: msgspec.json.decode(entry.value) for entry in graph.metadata_props}
    assert said["purify_edge.class_names"] == list(manifest.class_names)
    assert said["purify_edge.golden_sha256"] == manifest.golden.file.sha256
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.fixture(scope="module")
def with_rule(own: tuple[nn.Module, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle whose served graph spares clean images; not to be changed."""
    images, labels = SPLIT.images.permute(0, 2, 3, 1).numpy(), SPLIT.labels.numpy()
    out = tmp_path_factory.mktemp("rule") / "bundle"
    how = {"served": "float32", "spare_clean": True, "integrations": True, "fp16": False}
    return export(*own, images, labels, out=out, epsilon=0.1, rounds=0, targets=["onnx"], **how)


def test_a_bundle_can_have_it_spare_clean_images(with_rule: ExportResult) -> None:
    bundle = with_rule.bundle
    assert with_rule.report.passed
    assert bundle.model("served", "fp32").spare_clean
    assert not bundle.model("defended", "fp32").spare_clean
    assert bundle.manifest.spare
    for file, said in (
        ("models/served.fp32.onnx", {"threshold": bundle.manifest.spare.threshold}),
        ("integrations/deepstream.fp32.onnx", {"threshold": bundle.manifest.spare.threshold}),
        ("models/defended.fp32.onnx", None),
    ):
        graph = onnx.load_model_from_string((bundle.path / file).read_bytes())
        values = {entry.key: entry.value for entry in graph.metadata_props}
        assert msgspec.json.decode(values["purify_edge.spare"]) == said
    names = served_checks(with_rule.report)
    for split in ("clean", "adversarial", "noise"):
        assert names[f"change of what is spared, onnxruntime fp32 served {split}"]


@pytest.mark.parametrize("threshold", [0.0, 1e9], ids=["never", "always"])
def test_a_graph_that_spares_others_is_found(with_rule: ExportResult, tmp_path: Path, threshold: float) -> None:
    copy = Path(shutil.copytree(with_rule.bundle.path, tmp_path / "bundle"))
    opened = Bundle.open(copy)
    assert opened.manifest.spare
    halves = (opened.read(opened.model(role, "fp32").file) for role in ("purifier", "classifier"))
    rule = msgspec.structs.replace(opened.manifest.spare, threshold=threshold)
    pair = GraphPair(*map(onnx.load_model_from_string, halves))
    wrong = served(pair, opened.manifest.input, opened.manifest.suspicion, "float32", rule)
    replace(copy, "models/served.fp32.onnx", wrong.SerializeToString())
    report = check_bundle(Bundle.open(copy), engine="onnxruntime", precisions=["fp32"], rounds=0)
    broken = {name for name, passed in served_checks(report).items() if not passed}
    assert any(name.startswith("change of what is spared") for name in broken)
    assert not any(name.startswith("relative error") for name in broken)  # the answers are right by its own decision


def test_deepstream_gets_the_answers_of_the_rule(with_rule: ExportResult) -> None:
    bundle, split = with_rule.bundle, load_golden(with_rule.bundle)["clean"]
    assert bundle.manifest.spare
    graph = onnx.load_model_from_string((bundle.path / "integrations" / "deepstream.fp32.onnx").read_bytes())
    found = run(graph, as_batch(split.images, bundle.manifest.input))
    assert "spared" not in found
    expected = torch.from_numpy(spare(split.classifier, split.defended, bundle.manifest.spare)).softmax(1).numpy()
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)


def test_without_images_to_set_its_threshold_no_graph_spares(own: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    images, labels = SPLIT.images[:30].permute(0, 2, 3, 1).numpy(), SPLIT.labels[:30].numpy()
    with pytest.raises(InputError, match="no threshold to spare clean images by"):
        export(*own, images, labels, out=tmp_path / "bundle", served="uint8", spare_clean=True, targets=["onnx"])
    assert not list(tmp_path.iterdir())


def test_the_rule_needs_a_graph_to_stand_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add one of them"):
        check_order(tmp_path / "bundle", ExportOptions(spare_clean=True))
    check_order(tmp_path / "bundle", ExportOptions(spare_clean=True, integrations=True))
