"""Fixtures of the exporter's tests."""

from collections.abc import Iterator

import pytest
from torch import nn

from purify_export import export
from purify_export.convert.int8_search import Pair
from purify_export.convert.onnx_from_torch import onnx_from_torch
from purify_export.export import Networks


@pytest.fixture(scope="module", autouse=True)
def _short_timings() -> Iterator[None]:
    """Latencies by a few calls: no test here looks at how long one took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "ROUNDS", 3)
        yield


@pytest.fixture(scope="session")
def pair(networks: Networks) -> Pair:
    """The shipped pair's float32 graphs; not to be changed."""
    shape = (1, 28, 28)
    return Pair(
        onnx_from_torch(networks.purifier, image_shape=shape, output="purified"),
        onnx_from_torch(networks.classifier, image_shape=shape, output="logits"),
    )


@pytest.fixture(params=["purifier", "classifier", "defended"])
def network(request: pytest.FixtureRequest, networks: Networks) -> nn.Module:
    module: nn.Module = getattr(networks, request.param)
    return module
