"""Signatures of bundles, with OpenSSF's model-signing and keys made here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.bundles import cached
from helpers.keys import make_keys
from purify_edge import Pipeline
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.signing import SIGNATURE, require_key, sign, verify
from purify_edge.errors import BundleError, InputError
from purify_edge.run.cli import main as purify_run


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public key, in PEM."""
    pytest.importorskip("model_signing")
    return make_keys(tmp_path, "key")


def test_a_signed_bundle_is_verified_wherever_it_is(bundle_copy: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign(bundle_copy, private)
    moved = bundle_copy.rename(bundle_copy.parent / "elsewhere")
    verify(moved, public)
    assert Bundle.open(moved, verify=public).verified
    assert not Bundle.open(moved).verified


def test_a_signed_bundle_is_verified_in_hugging_faces_cache(
    bundle_copy: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    sign(bundle_copy, private)
    snapshot = cached(bundle_copy, tmp_path / "hub")
    assert Bundle.open(snapshot, verify=public).verified
    model = (snapshot / "models" / "purifier.fp32.onnx").resolve()
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match="is not what the owner of"):
        Bundle.open(snapshot, verify=public)


def test_the_signature_is_the_standards(bundle_copy: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign(bundle_copy, private)
    command = [sys.executable, "-m", "model_signing", "verify", "key", "--public_key", str(public)]
    options = ["--signature", str(bundle_copy / SIGNATURE), str(bundle_copy)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=300)
    if "No module named model_signing.__main__" in done.stderr:
        pytest.skip("this version of model-signing has no command of its own")
    assert done.returncode == 0, done.stderr


def test_purify_run_opens_the_bundle_once_and_runs_what_was_verified(
    bundle_copy: Path, keys: tuple[Path, Path], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second opening would run whatever lies there by then, unverified."""
    private, public = keys
    sign(bundle_copy, private)
    opened: list[Bundle] = []
    run_with: list[Bundle] = []
    real_open, real_load = Bundle.open, Pipeline.load

    def open_bundle(*arguments: Any, **options: Any) -> Bundle:
        opened.append(real_open(*arguments, **options))
        return opened[-1]

    def load(bundle: Any, **options: Any) -> Pipeline:
        run_with.append(bundle)
        return real_load(bundle, **options)

    monkeypatch.setattr(Bundle, "open", open_bundle)
    monkeypatch.setattr(Pipeline, "load", load)
    done = CliRunner().invoke(purify_run, [str(bundle_copy), str(images[0]), "--verify", str(public)])
    assert done.exit_code == 0, done.output
    assert [bundle.verified for bundle in opened] == [True]
    assert run_with[0] is opened[0]


def test_an_open_bundle_that_was_not_verified_is_refused_with_a_key(bundle_path: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"was opened without a key: give it to Bundle.open\(..., verify=KEY\)"):
        Pipeline.load(Bundle.open(bundle_path), verify=keys[1])


@pytest.mark.parametrize("change", ["changed", "added", "removed", "no signature", "nonsense", "another key"])
def test_whatever_was_not_signed_is_refused(bundle_copy: Path, keys: tuple[Path, Path], change: str) -> None:
    private, public = keys
    sign(bundle_copy, private)
    model = bundle_copy / "models" / "purifier.fp32.onnx"
    if change == "changed":
        model.write_bytes(model.read_bytes()[:-1] + b"\0")
    elif change == "added":
        (bundle_copy / ".gitignore").write_text("")
    elif change == "removed":
        model.unlink()
    elif change == "no signature":
        (bundle_copy / SIGNATURE).unlink()
    elif change == "nonsense":
        (bundle_copy / SIGNATURE).write_text("{")
    else:
        public = make_keys(bundle_copy.parent, "other")[1]
    expected = "is not signed: it has no model.sig" if change == "no signature" else "is not what the owner of"
    with pytest.raises(BundleError, match=expected):
        Bundle.open(bundle_copy, verify=public)


def test_keys_that_are_none_are_told(tmp_path: Path, bundle_copy: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    for key in (public, tmp_path / "absent", bundle_copy / "manifest.json"):
        with pytest.raises(InputError, match=r"cannot be used to sign .*expected an unencrypted private key in PEM"):
            require_key(key)
    sign(bundle_copy, private)
    for key in (private, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"cannot be used to verify .*expected a public key in PEM"):
            verify(bundle_copy, key)
