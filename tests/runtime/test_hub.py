"""Bundles named hf://ORG/NAME, from a hub on this machine: which commit, which files, and what is refused."""

import hashlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.bundles import cached
from helpers.fixtures import Imitate, Run
from helpers.hub_server import READER, WRITER, Hub, files_of
from helpers.keys import make_keys
from helpers.refusals import refusal
from purify_edge import Pipeline
from purify_edge.bulk.cluster import Workers
from purify_edge.bulk.run import BulkJob
from purify_edge.bundle.download import HubName, hub_name
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.signing import SIGNATURE, sign
from purify_edge.engines.models import Setup, open_model
from purify_edge.engines.tensorrt.store import EnginePolicy, Place
from purify_edge.errors import BundleError, InputError, MissingError
from purify_edge.serve.cli import main as purify_serve

NAME = "hf://acme/pair"
RTX = Setup("rtx", "fp32", "fp32")


@pytest.fixture
def files(few_images: Path) -> dict[str, bytes]:
    """What a repository with a bundle holds."""
    return files_of(few_images) | {"README.md": b"# A card", ".gitattributes": b""}


@pytest.fixture
def commit(hub: Hub, files: dict[str, bytes]) -> str:
    """The commit of a bundle on the hub."""
    return hub.add("acme/pair", files)


def renamed(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The same bundle under another name in its manifest."""
    manifest = files["manifest.json"].replace(b'"name": "fashion-mnist"', f'"name": "{name}"'.encode(), 1)
    return files | {"manifest.json": manifest}


def test_a_bundle_of_the_hub_gives_the_golden_answers_and_names_its_commit(
    commit: str, few_images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golden = load_golden(Bundle.open(few_images))["clean"]
    with (
        caplog.at_level(logging.INFO, "purify_edge"),
        Pipeline.load(NAME, engine="onnxruntime", precision="fp32") as pipeline,
    ):
        assert (pipeline.predict(golden.images).labels == golden.defended.argmax(axis=1)).all()
        assert pipeline.source == f"{NAME}@{commit}"
    assert f"{NAME} is at commit {commit}; {NAME}@{commit} stays at it" in caplog.text


def test_only_the_files_of_the_bundle_are_downloaded(commit: str, files: dict[str, bytes]) -> None:
    bundle = Bundle.open(Path(NAME))  # as the commands give it
    bundle.verify()
    assert files_of(bundle.path) == {name: files[name] for name in files if name not in ("README.md", ".gitattributes")}


def test_the_newest_commit_is_taken_unless_one_is_named(hub: Hub, commit: str, files: dict[str, bytes]) -> None:
    assert Bundle.open(NAME).source.endswith(commit)
    second = hub.add("acme/pair", renamed(files, "second"))
    newest = Bundle.open(NAME)
    assert (newest.manifest.name, newest.source) == ("second", f"{NAME}@{second}")
    hub.requests.clear()
    for number, name in ((commit, "fashion-mnist"), (second, "second")):
        assert Bundle.open(f"{NAME}@{number}").manifest.name == name
    assert hub.requests == []  # a commit that is there is not asked for again


def test_a_commit_of_which_a_file_is_missing_is_completed(commit: str) -> None:
    bundle = Bundle.open(f"{NAME}@{commit}")
    (bundle.path / "golden.npz").resolve().unlink()
    (bundle.path / "golden.npz").unlink()
    Bundle.open(f"{NAME}@{commit}").verify()


def test_a_file_that_was_changed_on_the_hub_is_refused_by_its_sha256(hub: Hub, files: dict[str, bytes]) -> None:
    model = files["models/purifier.fp32.onnx"]
    hub.add("acme/pair", files | {"models/purifier.fp32.onnx": model[:-1] + bytes([model[-1] ^ 1])})
    digest = hashlib.sha256(model).hexdigest()
    with pytest.raises(BundleError, match=rf"purifier\.fp32\.onnx is damaged: expected SHA-256 {digest}, found"):
        Pipeline.load(NAME, engine="onnxruntime", precision="fp32")


@pytest.mark.parametrize("trouble", ["offline", "unreachable", "out of order"])
def test_the_cache_serves_where_the_hub_does_not(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    from huggingface_hub import constants

    Bundle.open(NAME).verify()
    if trouble == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif trouble == "unreachable":
        hub.leave()
    else:
        hub.fault = 503
    with caplog.at_level(logging.INFO, "purify_edge"):
        bundle = Bundle.open(NAME)
    bundle.verify()
    assert bundle.source == f"{NAME}@{commit}"
    assert f"{NAME} is at commit {commit}, from the cache; " in caplog.text
    with pytest.raises(MissingError, match=r"hf://acme/other is not in Hugging Face's cache, and the hub cannot be"):
        Bundle.open("hf://acme/other")


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("hf://acme/absent", None, "is not there, or private: check the name; for a private one log in"),
        ("hf://acme/secret", None, "is not there, or private"),
        ("hf://acme/gated", READER, "is gated: ask its owner"),
        ("hf://acme/pair", "hf_expired", r"may not be read \(401\): log in"),
        ("hf://acme/pair@v2", None, "has no revision v2; name a branch, a tag or a full commit hash"),
        ("hf://acme/other", None, "holds no bundle: it has no manifest.json"),
        ("hf://acme/partial", None, "is incomplete: models/purifier.fp32.onnx is not on the hub"),
    ],
)
def test_what_the_hub_refuses_or_does_not_have_is_said(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str, token: str | None, words: str
) -> None:
    hub.add("acme/pair", files)
    hub.add("acme/secret", files, private=True)
    hub.add("acme/gated", files, gated=True)
    hub.add("acme/other", {"config.json": b"{}"})
    hub.add("acme/partial", {"manifest.json": files["manifest.json"]})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(name)
    assert "hf_" not in str(caught.value).replace("HF_TOKEN", "")


def test_a_token_that_may_opens_what_is_private(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/secret", files, private=True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    Bundle.open("hf://acme/secret").verify()


@pytest.mark.parametrize("name", ["hf://acme", "hf://acme/pair/more", "hf://acme/pair@", "hf://", "hf://acme/p air"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected hf://ORG/NAME or hf://ORG/NAME@REVISION, got hf://"):
        Bundle.open(name)


def test_a_name_that_the_hub_does_not_allow_is_refused(hub: Hub) -> None:
    with pytest.raises(InputError, match="hf://acme/a--b cannot be a repository"):
        Bundle.open("hf://acme/a--b")


def test_names_are_read_as_strings_and_as_paths() -> None:
    assert hub_name("hf://acme/pair@refs/pr/1") == HubName("acme/pair", "refs/pr/1")
    assert hub_name(Path("hf://acme/pair")) == HubName("acme/pair")
    assert hub_name("fashion-mnist") is None
    assert str(HubName("acme/pair", "v1")) == "hf://acme/pair@v1"


def test_the_commands_take_it_and_end_as_ever(run: Run, hub: Hub, commit: str, tmp_path: Path) -> None:
    options = ["--rounds", "0", "--engine", "onnxruntime", "--precision", "fp32"]
    code, _, err = run("purify-check", NAME, *options)
    assert code == 0, err
    assert f"{NAME} is at commit {commit}" in err
    assert refusal(*run("purify-check", "hf://acme/absent", *options)).startswith(
        "Error: hf://acme/absent is not there"
    )
    hub.leave()
    code, out, err = run("purify-check", "hf://acme/other", *options)
    assert (code, out) == (3, ""), err
    assert "is not in Hugging Face's cache" in err


def test_what_purify_serve_writes_of_it_has_no_links(commit: str, files: dict[str, bytes], tmp_path: Path) -> None:
    done = CliRunner().invoke(purify_serve, [NAME, str(tmp_path / "models")])
    assert done.exit_code == 0, done.output
    (copy,) = (path.parent for path in (tmp_path / "models").rglob("manifest.json"))
    assert not [path for path in copy.rglob("*") if path.is_symlink()]
    Bundle.open(copy).verify()


def test_workers_on_other_machines_are_given_the_commit(commit: str, tmp_path: Path) -> None:
    job = BulkJob(
        bundle=Path(NAME), inputs=(), out=tmp_path, engine="auto", precision="fp32", verify=None,
        policy=EnginePolicy(), workers=Workers(count=None, gpus=None, batch=1),
    )  # fmt: skip
    assert job.settings(Bundle.open(job.bundle), "fp32")["bundle"] == f"{NAME}@{commit}"


def test_a_missing_library_is_named_with_its_extra() -> None:
    program = "import sys; sys.modules['huggingface_hub'] = None\nfrom purify_edge.run.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, NAME, "x.png"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 3, done.stderr
    assert "needs 'hub': pip install 'purify-edge[hub]' (" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_written_into_the_cache_of_the_hub(few_images: Path, tmp_path: Path, own_folders: Path) -> None:
    snapshot = cached(few_images, tmp_path / "hub")
    assert Place.of(Bundle.open(snapshot)).path.is_relative_to(own_folders)


def test_an_engine_from_the_hub_is_not_trusted_and_built_here(
    hub: Hub, imitate: Imitate, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: Any = imitate()
    theirs = Path(shutil.copytree(few_images, tmp_path / "theirs"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "their-state"))
    open_model(Bundle.open(theirs), "purifier", RTX, EnginePolicy()).close()
    (entry,) = Bundle.open(theirs).manifest.engines
    hub.add("acme/pair", files_of(theirs))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "my-state"))
    ours = Bundle.open(NAME)
    assert (ours.path / entry.file.path).is_file()
    builds = len(world.builds)
    with pytest.raises(MissingError, match="--trust-engines loads it"):
        open_model(ours, "purifier", RTX, EnginePolicy(build=False))
    open_model(ours, "purifier", RTX, EnginePolicy()).close()
    assert len(world.builds) == builds + 1
    assert Bundle.open(NAME).sha256 == ours.sha256  # the cache's manifest is as it was


def test_a_signature_holds_beside_the_card_of_the_repository(hub: Hub, few_images: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    import huggingface_hub

    private, public = make_keys(tmp_path, "key")
    bundle = Path(shutil.copytree(few_images, tmp_path / "bundle"))
    sign(bundle, private)
    hub.add("acme/pair", files_of(bundle) | {"README.md": b"# A card", ".gitattributes": b""})
    assert Bundle.open(NAME, verify=public).verified
    folder = Path(huggingface_hub.snapshot_download("acme/pair"))  # all that is there, as others may fetch it
    assert {path.name for path in folder.iterdir()} >= {"README.md", ".gitattributes", SIGNATURE}
    assert Bundle.open(NAME, verify=public).verified
