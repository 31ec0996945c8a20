"""purify-check --server, where no server answers, or a pipeline in its place; tests/serving has one that does."""

import io
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bundles import overtaken
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check import server
from purify_edge.check.limits import Limits
from purify_edge.errors import InputError
from purify_edge.serve.triton import outputs_of

pytest.importorskip("tritonclient")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes connections and says nothing."""
    with socket.create_server(("localhost", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_says_nothing_is_not_waited_for_without_end(
    protocol: str, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TIMEOUT_S", 0.5)
    model = server.Model.of(f"{protocol}://localhost:{silent}/pair")
    with pytest.raises(InputError, match=r"pair on localhost:\d+: .*look at the server's log, and at --server"):
        model.input(model.client())


@pytest.mark.parametrize(
    "url", ["localhost:8001/pair", "grpc://localhost/pair", "grpc://localhost:8001", "ftp://a:1/b"]
)
def test_what_is_no_address_of_a_model_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a model; expected grpc://HOST:PORT/MODEL"):
        server.Model.of(url)


@dataclass(frozen=True)
class PipelineModel(server.Model):
    """What `purify-serve` writes, without a server around it."""

    pipeline: Pipeline

    def client(self) -> Any:
        return io.BytesIO()  # something to close

    def input(self, client: Any) -> tuple[str, str]:
        return "images", "UINT8"

    def ask(self, client: Any, name: str, kind: str, values: np.ndarray) -> tuple[server.Outputs, str]:
        return outputs_of(self.pipeline.predict(values)), "1"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let a pipeline of a bundle answer for a server."""
    pipelines: list[Pipeline] = []

    def serve_by(bundle: Path, *, spare_clean: bool) -> None:
        pipelines.append(Pipeline.load(bundle, engine="onnxruntime", precision="fp32", spare_clean=spare_clean))
        model = PipelineModel(None, "localhost", "pair", "", pipelines[-1])
        monkeypatch.setattr(server.Model, "of", lambda url: model)

    yield serve_by
    for pipeline in pipelines:
        pipeline.close()


def check(path: Path, *, rounds: int = 0) -> server.ServerReport:
    limits = Limits(min_agreement=0.995)
    return server.check_server(Bundle.open(path), "pair", limits=limits, rounds=rounds, tell=lambda text: None)


@pytest.mark.parametrize("spare_clean", [False, True])
def test_a_model_is_judged_by_the_rule_that_it_runs(
    few_images: Path, serve: Callable[..., None], spare_clean: bool
) -> None:
    serve(few_images, spare_clean=spare_clean)
    report = check(few_images, rounds=9)
    assert report.passed
    found = {of.name: of.value for of in report.checks}
    assert {value for name, value in found.items() if name.startswith("agreement")} == {1.0}
    spared = {name: value for name, value in found.items() if "spared" in name}
    names = ("clean", "adversarial", "noise") if spare_clean else ()
    assert spared == dict.fromkeys([f"change of what is spared, server {name}" for name in names], 0.0)
    assert [row.wrong for row in report.latency] == [0, 0, 0]  # the rule changes three of the first nine answers


@pytest.mark.parametrize(("by", "share"), [(0.02, 1.0), (0.2, 0.0)], ids=["a tie", "another class"])
def test_a_class_that_ties_with_pytorchs_agrees_for_batches_and_single_images(
    few_images: Path, serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, by: float, share: float
) -> None:
    serve(few_images, spare_clean=False)
    golden = {name: overtaken(split, by) for name, split in load_golden(Bundle.open(few_images)).items()}
    monkeypatch.setattr(server, "load_golden", lambda bundle: golden)
    report = check(few_images, rounds=9)
    agreements = [of for of in report.checks if of.name.startswith("agreement")]
    assert len(agreements) == len(golden) + len(report.latency)
    assert {of.value for of in agreements} == {share}
    assert {row.agreement for row in report.latency} == {share}


def test_single_images_are_not_timed_for_another_bundle(
    few_images: Path, serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(few_images, spare_clean=False)
    golden = load_golden(Bundle.open(few_images))["clean"]
    other = replace(golden, defended=golden.defended[:, :3], classifier=golden.classifier[:, :3])
    monkeypatch.setattr(server, "load_golden", lambda bundle: {"clean": other})
    with pytest.raises(InputError, match=r"pair gives \[1, 10\] probabilities, the bundle has \[1, 3\]: it is another"):
        server.time_server(Bundle.open(few_images), "pair", clients=[1], rounds=1, tell=lambda text: None)


def test_a_model_that_spares_by_another_threshold_fails(
    few_images: Path, edit_manifest: Callable[..., Path], serve: Callable[..., None]
) -> None:
    serve(edit_manifest(lambda manifest: manifest["spare"].update(threshold=1e-6)), spare_clean=True)
    report = check(few_images)
    assert "change of what is spared by its interval, server clean" in {
        of.name for of in report.checks if not of.passed
    }


def test_a_model_that_spares_is_not_that_of_a_bundle_without_a_threshold(
    bundle_path: Path, edit_manifest: Callable[..., Path], serve: Callable[..., None]
) -> None:
    serve(bundle_path, spare_clean=True)
    with pytest.raises(InputError, match=r"pair spares clean images, and .* has no threshold for that: the server"):
        check(edit_manifest(lambda manifest: manifest.pop("spare")))
