import numpy as np
import onnx
import pytest
import torch

from helpers.graphs import Hidden, export, graph, node, run
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.graphs import typed
from purify_export.convert.half_from_fp32 import half_from_fp32, rounding_from_half
from purify_export.convert.range_scan import LARGEST, MAX_LOSS, range_scan
from purify_toolkit.runs.folder import RunFolder

RANDOM = np.random.default_rng(0)
DARK = RANDOM.uniform(0, 0.2, (3, 1, 4, 4)).astype(np.float32)
BRIGHT = np.concatenate([DARK, RANDOM.uniform(0.8, 1, (1, 1, 4, 4)).astype(np.float32)])


@pytest.fixture(scope="module")
def hidden() -> onnx.ModelProto:
    return export(Hidden(), (1, 4, 4))


def test_an_overflow_hidden_behind_a_sigmoid_is_found_and_repaired(hidden: onnx.ModelProto) -> None:
    assert np.isfinite(run(rounding_from_half(half_from_fp32(hidden, "fp16")), BRIGHT)).all()  # nothing to be seen
    found = range_scan(hidden, {"clean": BRIGHT})
    assert [finding.layer.weight for finding in found] == ["grow.weight", "shrink.weight"]
    assert [finding.layer.operator for finding in found] == ["Conv", "Conv"]
    assert "weight grow.weight reaches 1e+05" in found[0].reason
    assert "takes up to" in found[1].reason
    repaired = half_from_fp32(hidden, "fp16", keep=[finding.layer.node for finding in found])
    with torch.no_grad():
        expected = Hidden()(torch.from_numpy(BRIGHT)).numpy()
    broken = run(rounding_from_half(half_from_fp32(hidden, "fp16")), BRIGHT)
    assert np.abs(broken - expected).max() > 0.2
    for model in (repaired, rounding_from_half(repaired)):
        np.testing.assert_allclose(run(model, BRIGHT), expected, rtol=2e-3)
    wide = [name for name, kind in typed(repaired).items() if kind == onnx.TensorProto.FLOAT and "weight" in name]
    assert sorted(wide) == ["grow.weight", "shrink.weight"]  # and nothing else is


def gain(factor: float) -> onnx.ModelProto:
    """Multiplies by a factor, by way of two small weights, and divides by it again."""
    weights = {"a": np.float32([factor**0.5]), "b": np.float32([factor**0.5]), "c": np.float32([1 / factor])}
    nodes = [node("Mul", ["images", "a"], "x"), node("Mul", ["x", "b"], "y"), node("Mul", ["y", "c"], "answer")]
    return graph(nodes, weights)


def part(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images[:, :, :2, :2])


def test_an_overflow_on_adversarial_images_only_is_found_and_said_to_be_on_them() -> None:
    model = gain(1e5)  # 0.2 becomes 20,000, which float16 holds; 1 does not stay below the limit
    assert range_scan(model, {"clean": part(DARK)}) == []
    found = range_scan(model, {"clean": part(DARK), "adversarial": part(BRIGHT)})
    assert [finding.layer.node for finding in found] == ["y", "answer"]
    assert all("adversarial images" in finding.reason for finding in found)


def test_the_limit_is_half_of_what_float16_holds() -> None:
    ones = np.ones((2, 1, 2, 2), np.float32) * np.float32([[[[0.5]]], [[[1]]]])
    assert range_scan(gain(0.98 * LARGEST["fp16"]), {"clean": ones}) == []
    assert [finding.layer.node for finding in range_scan(gain(1.02 * LARGEST["fp16"]), {"clean": ones})] == [
        "y",
        "answer",
    ]
    assert LARGEST == {"fp16": 32752, "bf16": (2 - 2**-7) * 2.0**126}


def test_the_largest_may_be_in_any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purify_export.convert.graphs.BATCH_PIXELS", 12)  # 3 images at once
    for position in (0, 4, 9):
        images = np.full((10, 1, 2, 2), 0.1, np.float32)
        images[position] = 1
        assert [finding.layer.node for finding in range_scan(gain(1e5), {"clean": images})] == ["y", "answer"]


def test_what_loses_too_much_is_found_though_nothing_overflows() -> None:
    """A difference of large numbers: float16 holds them, but not what tells one image from another."""
    weights = {"offset": np.float32([100])}
    model = graph([node("Add", ["images", "offset"], "sum"), node("Sub", ["sum", "offset"], "answer")], weights)
    found = range_scan(model, {"clean": part(BRIGHT)})
    assert [finding.layer.node for finding in found] == ["sum", "answer"]
    assert "float16 changes its result by" in found[0].reason
    repaired = half_from_fp32(model, "fp16", keep=[finding.layer.node for finding in found])
    np.testing.assert_allclose(run(rounding_from_half(repaired), part(BRIGHT)), part(BRIGHT), atol=1e-3)


def test_numbers_too_small_for_float16_are_found() -> None:
    model = graph(
        [node("Mul", ["images", "tiny"], "small"), node("Mul", ["small", "large"], "answer")],
        {"tiny": np.float32([1e-7]), "large": np.float32([1e7])},
    )
    found = {finding.layer.node for finding in range_scan(model, {"clean": part(BRIGHT)})}
    assert found == {"small", "answer"}


def test_an_ordinary_network_stays_as_it_is(pair: GraphPair) -> None:
    images = RANDOM.random((8, 1, 28, 28), dtype=np.float32)
    for _, model in pair.items():
        assert range_scan(model, {"clean": images}) == []
    assert MAX_LOSS["fp16"] < 0.05


def test_in_bfloat16_it_is_the_first_layers_that_lose_most(pair: GraphPair, shipped: RunFolder) -> None:
    """They take images of 8 bits; a large number, which float16 cannot hold, is no reason there."""
    beyond_float16 = range_scan(gain(1e8), {"clean": part(BRIGHT)}, "bf16")
    assert not any("up to" in finding.reason or "reaches" in finding.reason for finding in beyond_float16)
    images = shipped.load_samples().images[:32].float().div(255).numpy()
    found = {role: range_scan(model, {"clean": images}, "bf16") for role, model in pair.items()}
    assert pair.purifier.graph.node[0].name in {finding.layer.node for finding in found["purifier"]}
    for role, model in pair.items():
        assert 0 < len(found[role]) < len(model.graph.node) / 3
        assert all("bfloat16 changes its result by" in finding.reason for finding in found[role])


def with_constants() -> onnx.ModelProto:
    """A scalar and a vector are computed that are the same for all images, as position embeddings are."""
    weights = {"a": np.float32(1 / 3), "b": np.float32(0.7), "v": np.float32([0.1, 0.2]), "axes": np.int64([0])}
    nodes = [node("Mul", ["a", "b"], "scalar"), node("Mul", ["v", "scalar"], "vector")]
    return graph([*nodes, node("Add", ["images", "vector"], "answer")], weights)


def test_what_is_the_same_for_all_images_is_measured_by_its_own_size() -> None:
    """Against what differs between images, which is nothing, any rounding would be too much."""
    assert range_scan(with_constants(), {"clean": part(BRIGHT)}) == []


@pytest.mark.parametrize("size", [1, 3])
def test_parts_may_be_of_any_size_and_the_batch_on_any_axis(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("purify_export.convert.graphs.BATCH_PIXELS", 4 * size)
    weights = {"big": np.float32([1e5]), "small": np.float32([1e-5])}
    model = graph(
        [
            node("Transpose", ["images"], "t", perm=[2, 0, 1, 3]),
            node("Mul", ["t", "big"], "m"),
            node("Mul", ["m", "small"], "d"),
            node("Transpose", ["d"], "answer", perm=[1, 2, 0, 3]),
        ],
        weights,
    )
    assert [finding.layer.node for finding in range_scan(model, {"clean": part(BRIGHT)})] == ["m", "d"]


def test_numbers_that_are_none_are_out_of_range() -> None:
    nodes = [node("Div", ["images", "images"], "odd"), node("Mul", ["odd", "odd"], "answer")]
    found = range_scan(graph(nodes, {}), {"clean": np.zeros((2, 1, 2, 2), np.float32)})
    assert [finding.layer.node for finding in found] == ["odd", "answer"]
    assert "gives up to nan" in found[0].reason
