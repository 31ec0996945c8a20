"""The bundle's writer: a temporary sibling, renamed into place when complete, removed when not."""

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from purify_edge.bundle import signing
from purify_edge.bundle.manifest import MANIFEST, FileEntry, Manifest, encode_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError, InputError


def refuse(out: Path, *, force: bool) -> None:
    """Refuse to write a bundle where something is that may not be replaced.

    Raises:
        InputError: without `force` anything that is there; with it, anything but a bundle or an empty folder.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise InputError(f"{out} exists; --force replaces it, --out names another folder")
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    try:
        Bundle.open(out, allow_failed=True)
    except BundleError as error:
        raise InputError(f"{out} exists and is not a bundle; remove it yourself, or give another --out") from error


def _new_folder(out: Path, suffix: str) -> Path:
    """Make a folder beside another, with the permissions of any new one."""
    path = out.with_name(f".{out.name[:100]}.{secrets.token_hex(4)}{suffix}")
    path.mkdir()
    return path


class BundleWriter:
    """A writer of one bundle; a context manager. Nothing takes the bundle's name before `finish`.

    Args:
        out: the bundle's folder.
        force: replace a bundle, or an empty folder, that is there. Anything else is never replaced.

    Raises:
        InputError: `out` exists and may not be replaced, or its parent cannot be written to.
    """

    def __init__(self, out: Path, *, force: bool) -> None:
        self._out, self._force = out, force
        refuse(out, force=force)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.path = _new_folder(out, ".partial")
        except OSError as error:
            raise InputError(f"cannot write to {out.parent}: {error.strerror}; --out names another folder") from error

    def add(self, path: str, content: bytes) -> FileEntry:
        """Write a file and return its entry for the manifest."""
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return FileEntry(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    def finish(self, manifest: Manifest, *, sign: Path | None = None) -> Bundle:
        """Write the manifest, sign with a private key if there is one, and give the bundle its name.

        One that failed takes the name `OUT.failed`, in the place of another.

        Raises:
            InputError: something has taken the name meanwhile, or what is at `OUT.failed` is not a failed bundle.
            InputError, MissingError: see `purify_edge.bundle.signing.sign`.
        """
        if manifest.failed:
            self._keep_apart()
        self.add(MANIFEST, encode_manifest(manifest))
        if sign:
            signing.sign(self.path, sign)
        refuse(self._out, force=self._force)  # again: something may have taken the name meanwhile
        if self._out.exists():
            self._replace()
        else:
            self.path.rename(self._out)
        return Bundle(self._out, manifest)

    def _keep_apart(self) -> None:
        """Go on under another name, which takes nothing away from a bundle that is at the first."""
        self._out = self._out.with_name(f"{self._out.name}.failed")
        self._force = True
        if self._out.exists() and not _is_failed(self._out):
            raise InputError(f"{self._out} exists and is not a failed bundle; move it away, or give another --out")

    def _replace(self) -> None:
        """Put the old bundle aside, the new one in its place, and the old one back if that fails."""
        aside = _new_folder(self._out, ".replaced")
        old = aside / self._out.name
        try:
            self._out.rename(old)
            self.path.rename(self._out)
        except BaseException:
            if old.exists() and not self._out.exists():
                old.rename(self._out)
            raise
        finally:
            if self._out.exists():
                shutil.rmtree(aside, ignore_errors=True)

    def __enter__(self) -> "BundleWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # gone already where it was finished


def _is_failed(path: Path) -> bool:
    try:
        return bool(Bundle.open(path, allow_failed=True).manifest.failed)
    except BundleError:
        return False
