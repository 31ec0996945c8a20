"""Bundles on the Hugging Face hub: `hf://ORG/NAME[@REVISION]` becomes a folder in Hugging Face's own cache."""

import logging
import re
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from purify_edge.bundle.manifest import MANIFEST, read_manifest
from purify_edge.bundle.signing import SIGNATURE
from purify_edge.errors import BundleError, InputError, MissingError, PurifyError, reason
from purify_edge.extras import require_library

logger = logging.getLogger("purify_edge")

SCHEME = "hf:/"
NAME = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
"""With one slash too: that is what pathlib makes of two."""
COMMIT = re.compile("[0-9a-f]{40}")
NO_ACCESS = (401, 403)
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


class HubName(NamedTuple):
    """A repository on the hub, and its branch, tag or commit; None for the newest of `main`."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return it as a user writes it."""
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


class Downloaded(NamedTuple):
    """A bundle's folder in the cache, and its name with the commit that it is of."""

    folder: Path
    source: str


def hub_name(path: str | Path) -> HubName | None:
    """Return what a bundle's name means on the hub; None for names of folders.

    Raises:
        InputError: it begins as one of the hub's, and is none.
    """
    text = path if isinstance(path, str) else path.as_posix()
    if not text.startswith(SCHEME):
        return None
    found = NAME.fullmatch(text)
    if not found:
        raise InputError(
            f"expected hf://ORG/NAME or hf://ORG/NAME@REVISION, got hf://{text.removeprefix(SCHEME).lstrip('/')}"
        )
    return HubName(found["repository"], found["revision"])


def download(name: HubName) -> Downloaded:
    """Bring a bundle into the cache, its files and no others; they are not verified yet.

    A commit that is there completely is not requested again. Where the hub cannot be reached, the cache serves.

    Raises:
        MissingError: huggingface_hub is not installed, or the hub cannot be reached and the cache does not have it.
        BundleError: no such repository or revision, no permission, or no bundle in it.
    """
    library = require_library("huggingface_hub", "hub")
    folder = _cached(library, name) if COMMIT.fullmatch(name.revision or "") else None
    if folder:
        logger.info("%s is in the cache; the hub is not asked", name)
        return Downloaded(folder, str(name))
    try:
        is_online = _ask(library, name)
        folder = _fetched(library, name, is_online)
    except PurifyError:
        raise
    except Exception as error:  # huggingface_hub raises its own, and those of its HTTP library
        raise _explained(library, name, error) from error
    source = HubName(name.repository, folder.name)
    how = "" if is_online else ", from the cache"
    logger.info("%s is at commit %s%s; %s stays at it", name, folder.name, how, source)
    return Downloaded(folder, str(source))


def _cached(library: Any, name: HubName) -> Path | None:
    """Return the folder of a commit where every file of it is in the cache."""
    try:
        return _fetched(library, name, is_online=False)
    except (library.errors.LocalEntryNotFoundError, BundleError):
        return None


def _ask(library: Any, name: HubName) -> bool:
    """Return whether the hub answers; raise what it says where it refuses."""
    try:
        library.get_hf_file_metadata(library.hf_hub_url(name.repository, MANIFEST, revision=name.revision))
    except library.errors.HfHubHTTPError as error:
        if status_of(error) < 500:
            raise
        logger.info("%s: the hub has a fault of its own (%s)", name, reason(error))
        return False
    except ValueError:  # a name that the hub does not allow
        raise
    except Exception as error:  # no network, no answer in time, or HF_HUB_OFFLINE
        logger.info("%s: %s", name, reason(error))
        return False
    return True


def _fetched(library: Any, name: HubName, is_online: bool) -> Path:
    """Return the folder of a bundle's files, all of one commit."""
    is_offline = not is_online
    manifest = Path(
        library.hf_hub_download(name.repository, MANIFEST, revision=name.revision, local_files_only=is_offline)
    )
    folder, paths = manifest.parent, [entry.path for entry in read_manifest(manifest)[0].files]
    if is_online:
        patterns = [escape(path) for path in (MANIFEST, SIGNATURE, *paths)]
        library.snapshot_download(name.repository, revision=folder.name, allow_patterns=patterns)
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing:
        where = "on the hub" if is_online else "in Hugging Face's cache, and the hub is not asked"
        raise BundleError(f"{name} is incomplete: {missing[0]} is not {where}; download it again, or push it again")
    return folder


def status_of(error: Any) -> int:
    """Return the HTTP status of an exception of huggingface_hub; 0 where it has none."""
    return int(getattr(error.response, "status_code", 0) or 0)


def _explained(library: Any, name: HubName, error: Exception) -> PurifyError:
    """Return what to tell the user of huggingface_hub's exception; the first kind that fits is said."""
    errors, where = library.errors, f"hf://{name.repository}"
    refusals = {
        errors.RevisionNotFoundError: f"has no revision {name.revision}; name a branch, a tag or a full commit hash",
        errors.EntryNotFoundError: f"holds no bundle: it has no {MANIFEST}; purify-export --push writes one there",
        errors.GatedRepoError: f"is gated: ask its owner on its page for access, then {LOG_IN}",
        errors.RepositoryNotFoundError: f"is not there, or private: check the name; for a private one {LOG_IN}",
    }
    if isinstance(error, errors.LocalEntryNotFoundError):
        return MissingError(
            f"{name} is not in Hugging Face's cache, and the hub cannot be reached; "
            "load it once with a network, or copy the bundle's folder here"
        )
    for kind, words in refusals.items():
        if isinstance(error, kind):
            return BundleError(f"{where} {words}")
    if isinstance(error, errors.HfHubHTTPError) and status_of(error) in NO_ACCESS:
        return BundleError(f"{where} may not be read ({status_of(error)}): {LOG_IN} with a token that may")
    if isinstance(error, ValueError):
        return InputError(f"{name} cannot be a repository: {reason(error)}")
    return MissingError(f"{name} cannot be downloaded: {reason(error)}; try again, what has arrived is kept")
