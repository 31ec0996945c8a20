"""Putting a bundle on the Hugging Face hub: its files and its model card, in one commit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from purify_edge.bundle.download import LOG_IN, NO_ACCESS, HubName, hub_name, status_of
from purify_edge.bundle.manifest import MANIFEST, read_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.bundle.signing import OF_THE_HUB, SIGNATURE
from purify_edge.errors import BundleError, InputError, MissingError, PurifyError, reason
from purify_edge.extras import require_library
from purify_export.publish.card import model_card

CARD = "README.md"
LIBRARY = "purify-edge"


def check_push(name: str) -> None:
    """Check that a bundle could be pushed, before the long work that ends with it.

    Raises:
        InputError: no name of a repository, nobody is logged in, or the token is refused.
        MissingError: huggingface_hub is not installed, or the hub cannot be reached.
    """
    library = require_library("huggingface_hub", "hub")
    found = hub_name(f"hf://{name}")
    if found is None or found.revision:
        raise InputError(f"--push takes ORG/NAME, got {name}; every push is a commit of its own on main")
    try:
        library.HfApi(library_name=LIBRARY).whoami()
    except Exception as error:  # huggingface_hub raises its own, and those of its HTTP library
        raise _explained(library, name, error) from error


def push(bundle: Bundle, name: str, *, private: bool = False, licence: str = "") -> str:
    """Upload a bundle in one commit, and return its name with that commit.

    Files are read as they are when used, verified. Those of the bundle that was there before are removed.

    Args:
        bundle: one that passed its export; what failed must not be given to others.
        name: ORG/NAME of the repository; it is made where it is not there.
        private: make it one that only its owners see; of no effect where it is there.
        licence: of the networks, by SPDX's name; empty where it is not known.

    Raises:
        BundleError: a file is damaged, or there is no report.
        InputError: the bundle broke a limit, the repository holds something else, or the token may not write to it.
        MissingError: the hub cannot be reached.
    """
    library = require_library("huggingface_hub", "hub")
    report = _report(bundle)
    if bundle.manifest.failed or not report.passed:
        raise InputError(f"{bundle.path} broke a limit and is not pushed; see its report.md")
    contents = dict(_contents(bundle))
    contents[CARD] = model_card(bundle.manifest, report, name, licence=licence).encode()
    api = library.HfApi(library_name=LIBRARY)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        info = api.model_info(name)
        there = {file.rfilename for file in info.siblings or ()}
        stale = (there & _before(library, name, info.sha, there)) - contents.keys()
        added = [library.CommitOperationAdd(path, content) for path, content in contents.items()]
        removed = [library.CommitOperationDelete(path) for path in sorted(stale)]
        message = f"{bundle.manifest.name}, exported {bundle.manifest.created}"
        commit = api.create_commit(name, [*added, *removed], commit_message=message, parent_commit=info.sha)
    except PurifyError:
        raise
    except Exception as error:
        raise _explained(library, name, error) from error
    return str(HubName(name, commit.oid))


def _report(bundle: Bundle) -> Report:
    """Return the report of the export.

    Raises:
        BundleError: there is none, it is damaged, or it is none of ours.
    """
    entry = bundle.manifest.report
    try:
        return msgspec.json.decode(bundle.read(entry) if entry else b"", type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{bundle.path} has no report that could be read: {error}; export it again") from error


def _contents(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Yield the path of every file of a bundle with its content."""
    for entry in bundle.manifest.files:
        yield entry.path, bundle.read(entry)
    for path in (MANIFEST, SIGNATURE):
        if (bundle.path / path).is_file():
            yield path, (bundle.path / path).read_bytes()


def _before(library: Any, name: str, commit: str, there: set[str]) -> set[str]:
    """Return the files of the bundle that is in the repository.

    Raises:
        InputError: there is something else.
    """
    if there <= {*OF_THE_HUB}:
        return set()
    if MANIFEST not in there:
        other = ", ".join(sorted(there - {*OF_THE_HUB})[:3])
        raise InputError(f"hf://{name} holds something else than a bundle ({other}); push to a repository of its own")
    manifest, _ = read_manifest(Path(library.hf_hub_download(name, MANIFEST, revision=commit)))
    return {SIGNATURE, *(entry.path for entry in manifest.files)}


def _explained(library: Any, name: str, error: Exception) -> PurifyError:
    """Return what to tell the user of huggingface_hub's exception; none of them holds the token."""
    errors = library.errors
    if isinstance(error, errors.LocalTokenNotFoundError):
        return InputError(f"nobody is logged in to the hub: {LOG_IN} with a token that may write to {name}")
    if isinstance(error, errors.HfHubHTTPError) and status_of(error) in NO_ACCESS:
        return InputError(f"hf://{name} may not be written to ({status_of(error)}): {LOG_IN} with a token that may")
    if isinstance(error, ValueError):
        return InputError(f"hf://{name} cannot be pushed to: {reason(error)}")
    return MissingError(f"hf://{name} cannot be pushed to: {reason(error)}; see to the network, and push again")
