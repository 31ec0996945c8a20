"""purify-export --push: one commit with the bundle and its card, on a hub on this machine."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from helpers.fixtures import Run
from helpers.hub_server import READER, WRITER, Hub, files_of
from helpers.refusals import refused
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import FileEntry, encode_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import AccuracyRow, Report, encode_report
from purify_edge.errors import BundleError, InputError, MissingError
from purify_edge.files import write_json
from purify_export.cli import main
from purify_export.export import ExportResult
from purify_export.publish.card import model_card
from purify_export.publish.push import check_push, push

NAME = "acme/pair"


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, to somebody who may write there."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return hub


@pytest.fixture
def ours(few_images: Path) -> tuple[Bundle, Report]:
    """A bundle and the report of its export."""
    bundle = Bundle.open(few_images)
    assert bundle.manifest.report is not None
    return bundle, msgspec.json.decode(bundle.read(bundle.manifest.report), type=Report)


@pytest.fixture
def harmful(run_path: Path, tmp_path: Path) -> Path:
    """A run whose purifier does harm, as its training found."""
    run = Path(shutil.copytree(run_path, tmp_path / "run"))
    write_json(run / "metrics.json", {"harm": ["the purifier costs too much"]})
    return run


def data_of(card: str) -> dict[str, Any]:
    """The YAML at the top of a card."""
    start, data, _ = card.split("---\n", 2)
    assert start == ""
    content: dict[str, Any] = yaml.safe_load(data)
    return content


def test_an_export_is_pushed_and_loads_by_its_name(run: Run, hub: Hub, run_path: Path, tmp_path: Path) -> None:
    options = ["--targets", "onnx", "--out", tmp_path / "bundle", "--push", NAME, "--private"]
    code, _, err = run("purify-export", run_path, *options)
    assert code == 0, err
    assert WRITER not in err
    repository = hub.repositories[NAME]
    assert repository.private
    assert len(repository.commits) == 2  # that of an empty repository, and ours
    assert f"pushed: hf://{NAME}@{repository.newest}" in err
    there = repository.commits[repository.newest]
    assert {name: content for name, content in there.items() if name not in ("README.md", ".gitattributes")} == (
        files_of(tmp_path / "bundle")
    )
    golden = load_golden(Bundle.open(tmp_path / "bundle"))["clean"]
    with Pipeline.load(f"hf://{NAME}", engine="onnxruntime", precision="fp32") as pipeline:
        assert (pipeline.predict(golden.images).labels == golden.defended.argmax(axis=1)).all()


def test_the_card_has_the_figures_of_the_report(ours: tuple[Bundle, Report]) -> None:
    bundle, report = ours
    card = model_card(bundle.manifest, report, NAME, licence="Apache-2.0")
    data = data_of(card)
    assert (data["license"], data["library_name"]) == ("apache-2.0", "purify-edge")
    assert (data["pipeline_tag"], data["datasets"]) == ("image-classification", ["zalando-datasets/fashion_mnist"])
    (result,) = data["model-index"][0]["results"]
    found = {
        (row["args"]["threat"], row["args"]["attack"], row["args"]["n"], row["value"]) for row in result["metrics"]
    }
    assert found == {(row.threat, row.attack, row.n, row.accuracy) for row in report.accuracy if row.defended}
    assert {"clean", "grey-box", "white-box"} <= {threat for threat, *_ in found}
    for words in (
        f"purify-run hf://{NAME} PICTURE.png",
        "| 10,000 |",
        "is not stopped: of 1,000 images 0.0% stay right",
    ):
        assert words in card


def test_a_card_without_an_evaluation_says_so_and_claims_nothing(exported: ExportResult) -> None:
    bundle, report = exported
    card = model_card(bundle.manifest, report, NAME)
    data = data_of(card)
    assert {"model-index", "license", "datasets"}.isdisjoint(data)
    assert "how many images stay right was not measured; expect none" in card


def test_the_card_tells_which_graphs_spare_clean_images(ours: tuple[Bundle, Report]) -> None:
    bundle, report = ours
    assert bundle.manifest.spare is not None
    card = model_card(bundle.manifest, report, NAME)
    assert "own answer stands where purification hardly changes the logits: weak attacks then pass too" in card
    first, *others = bundle.manifest.models
    sparing = msgspec.structs.replace(first, spare_clean=True)
    card = model_card(msgspec.structs.replace(bundle.manifest, models=(sparing, *others)), report, NAME)
    assert f"without being asked in {first.file.path.replace('_', chr(92) + '_')}: weak attacks" in card
    card = model_card(msgspec.structs.replace(bundle.manifest, spare=None), report, NAME)
    assert "Sparing" not in card


def test_words_of_others_are_no_markup_in_a_card(ours: tuple[Bundle, Report]) -> None:
    bundle, report = ours
    row = AccuracyRow(threat="x", attack="<b> | # y\n\n## z", defended=True, n=1, accuracy=0.5, ci95=(0.0, 1.0))
    manifest = msgspec.structs.replace(bundle.manifest, name="# <script>\n\n## more")
    card = model_card(manifest, msgspec.structs.replace(report, accuracy=(row,)), NAME)
    body = card.split("\n---\n", 1)[1]
    assert "<script>" not in body.replace("\\<script\\>", "")
    headings = [line for line in body.splitlines() if line.startswith("## ")]
    assert headings == ["## How to use it", "## Accuracy under attack", "## Limits"]
    assert data_of(card)["model-index"][0]["results"][0]["metrics"][0]["args"]["attack"] == row.attack


def test_agreement_is_not_called_accuracy(ours: tuple[Bundle, Report]) -> None:
    bundle, report = ours
    provenance = {"run": bundle.manifest.provenance["run"] | {"unlabelled": True}}
    manifest = msgspec.structs.replace(bundle.manifest, provenance=provenance)
    assert "model-index" not in data_of(model_card(manifest, report, NAME))


def test_another_push_is_one_commit_more_and_leaves_nothing_of_the_old_bundle(
    hub: Hub, ours: tuple[Bundle, Report], tmp_path: Path
) -> None:
    bundle, _ = ours
    first = push(bundle, NAME)
    copy = Path(shutil.copytree(bundle.path, tmp_path / "smaller"))
    models = tuple(model for model in bundle.manifest.models if model.precision == "fp32")
    (copy / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(bundle.manifest, models=models)))
    second = push(Bundle.open(copy), NAME)
    assert len(hub.repositories[NAME].commits) == 3
    assert Bundle.open(second).precisions("defended") == ["fp32"]
    assert not [path for path in hub.repositories[NAME].commits[second.partition("@")[2]] if "fp16" in path]
    assert Bundle.open(first).precisions("defended") == ["fp32", "fp16"]  # the pinned one stays
    assert push(Bundle.open(copy), NAME) == second  # nothing has changed: no commit


def test_a_bundle_that_failed_or_is_damaged_is_not_pushed(
    hub: Hub, ours: tuple[Bundle, Report], bundle_copy: Path
) -> None:
    bundle, report = ours
    failed = msgspec.structs.replace(bundle.manifest, failed=("a limit",))
    with pytest.raises(InputError, match="broke a limit and is not pushed"):
        push(Bundle(bundle.path, failed), NAME)
    content = encode_report(msgspec.structs.replace(report, passed=False))
    (bundle_copy / "report.json").write_bytes(content)
    entry = FileEntry(path="report.json", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(InputError, match="broke a limit and is not pushed"):
        push(Bundle(bundle_copy, msgspec.structs.replace(bundle.manifest, report=entry)), NAME)
    with pytest.raises(BundleError, match=r"report\.json is damaged"):
        push(Bundle.open(bundle_copy), NAME)
    with pytest.raises(BundleError, match="has no report that could be read"):
        push(Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, report=None)), NAME)
    assert hub.repositories == {}


def test_a_repository_of_something_else_is_left_alone(hub: Hub, ours: tuple[Bundle, Report]) -> None:
    hub.add(NAME, {"pytorch_model.bin": b"weights", "README.md": b"mine"})
    with pytest.raises(InputError, match=r"holds something else than a bundle \(pytorch_model\.bin\)"):
        push(ours[0], NAME)
    assert len(hub.repositories[NAME].commits) == 1


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", r"nobody is logged in to the hub: log in by `hf auth login`, or set HF_TOKEN"),
        ("hf_expired", r"may not be written to \(401\)"),
        (READER, r"may not be written to \(403\)"),
    ],
)
def test_who_may_not_write_is_told_so_and_not_by_their_token(
    hub: Hub, ours: tuple[Bundle, Report], monkeypatch: pytest.MonkeyPatch, token: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=words) as caught:
        check_push(NAME)
        push(ours[0], NAME)
    assert not token or token not in str(caught.value)
    assert hub.repositories == {}


def test_a_hub_that_is_not_there_is_found_before_the_work(hub: Hub) -> None:
    hub.leave()
    with pytest.raises(MissingError, match=f"hf://{NAME} cannot be pushed to: .*; see to the network, and push again"):
        check_push(NAME)


@pytest.mark.parametrize("name", ["pair", "acme/pair@v1", "acme/pair/more", "hf://acme/pair"])
def test_a_name_that_is_none_is_refused_before_the_work(hub: Hub, tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(main, ["--push", name, "--out", str(tmp_path / "bundle")])
    assert "ORG/NAME" in refused(done)
    assert not (tmp_path / "bundle").exists()


def test_private_goes_with_a_push(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--private", "--out", str(tmp_path / "bundle")])
    assert "--private goes with --push ORG/NAME" in refused(done)


def test_an_export_that_breaks_a_limit_is_not_pushed(hub: Hub, harmful: Path, tmp_path: Path) -> None:
    options = ["--targets", "onnx", "--out", str(tmp_path / "bundle"), "--push", NAME]
    done = CliRunner().invoke(main, [str(harmful), *options])
    assert done.exit_code == 1, done.stderr
    assert f"not pushed to {NAME}: a limit is broken" in done.stderr
    assert hub.repositories == {}
