"""Fixtures of the exporter's tests: the pair that ships, and small trained ones that are exported once."""

from pathlib import Path

import pytest
from torch import nn

from helpers.trained import PREPROCESSING, quadrants, small_run, some_pair
from purify_edge import export as export_pair
from purify_export.convert.graph_pair import GraphPair
from purify_export.export import ExportResult
from purify_export.networks import Networks


@pytest.fixture(scope="session")
def pair(networks: Networks) -> GraphPair:
    """The shipped pair's float32 graphs; not to be changed."""
    return GraphPair.from_torch(networks.purifier, networks.classifier, (1, 28, 28))


@pytest.fixture(scope="session")
def own() -> tuple[nn.Module, nn.Module]:
    """A purifier and a classifier that are not ours, on three channels; not to be changed."""
    return some_pair(3)


@pytest.fixture(scope="session")
def exported(own: tuple[nn.Module, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Their bundle in every precision; not to be changed."""
    split = quadrants(channels=3, count=400)
    return export_pair(  # type: ignore[no-any-return]
        *own,
        split.images.permute(0, 2, 3, 1).numpy(),
        split.labels.numpy(),
        out=tmp_path_factory.mktemp("exported") / "own",
        bf16=True,
        int8=True,
        class_names=["north-west", "north-east", "south-west", "south-east"],
        epsilon=0.1,
        preprocessing=PREPROCESSING,
        rounds=2,
    )


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of small trained networks, with 400 test images; not to be changed."""
    return small_run(tmp_path_factory.mktemp("runs") / "small").path
