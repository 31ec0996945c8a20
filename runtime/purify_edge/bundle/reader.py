"""The bundle's reader: nothing is parsed or deserialised before its size and SHA-256 are found right."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from purify_edge.bundle import signing
from purify_edge.bundle.download import Downloaded, download, hub_name
from purify_edge.bundle.hub import blobs_beside
from purify_edge.bundle.manifest import MANIFEST, FileEntry, Manifest, ModelEntry, read_manifest
from purify_edge.bundle.shipped import is_unpacked, shipped_bundle
from purify_edge.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """A folder that `purify-export` wrote."""

    path: Path  # of the folder
    manifest: Manifest  # what it holds
    verified: bool = False  # whether its signature was found to be that of a key which the user trusts
    sha256: str = ""  # the SHA-256 of the manifest's file
    source: str = ""  # hf://ORG/NAME@COMMIT, where it was downloaded from the Hugging Face hub
    _read: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def open(cls, path: str | Path, *, verify: Path | None = None, allow_failed: bool = False) -> "Bundle":
        """Read the manifest; files are verified when they are read.

        Args:
            path: the bundle's folder, the name of one that ships, or hf://ORG/NAME[@REVISION] on the Hugging Face hub.
            verify: a public key, whose owner must have signed the bundle.
            allow_failed: open even a bundle that broke a limit when it was exported.

        Raises:
            BundleError: no bundle there, a manifest that cannot be used, a bundle that is marked as failed, or not what
                the key's owner signed.
            InputError, MissingError: see `purify_edge.bundle.signing.verify` and `purify_edge.bundle.download`.
        """
        path, source = _found(path)
        if verify is not None:
            signing.verify(path, verify)
        parsed, content = read_manifest(path / MANIFEST)
        if parsed.failed and not allow_failed:
            more = f" and {len(parsed.failed) - 1} more" if len(parsed.failed) > 1 else ""
            raise BundleError(
                f"{path} failed its export and is marked so: {parsed.failed[0]}{more}, see {path}/report.json; "
                "export it again, or use it all the same with --allow-failed (in Python, allow_failed=True)"
            )
        digest = hashlib.sha256(content).hexdigest()
        return cls(path, parsed, verified=verify is not None, sha256=digest, source=source)

    def read(self, entry: FileEntry) -> bytes:
        """Return the content of a file, verified. What is returned is what was hashed: the file is read once.

        Raises:
            BundleError: missing, outside the bundle (by a symbolic link, but for those of Hugging Face's cache), of
                another size or hash.
        """
        path = self.path / entry.path
        advice = "copy the bundle again, or export it again"
        advice = f"remove {self.path}, and load it again by its name" if is_unpacked(self.path) else advice
        try:
            homes = self.path.resolve(), blobs_beside(self.path)
            advice = "remove it from Hugging Face's cache (hf cache rm), and load it again" if homes[1] else advice
            if not any(home and path.resolve().is_relative_to(home) for home in homes):
                raise BundleError(f"{path} leads outside the bundle; {advice}")
            size = path.stat().st_size
            if size != entry.size_bytes:
                raise BundleError(f"{path} is damaged: expected {entry.size_bytes} bytes, found {size}; {advice}")
            content = path.read_bytes()
        except (OSError, RuntimeError) as error:  # until Python 3.13 a loop of links is a RuntimeError
            raise BundleError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); {advice}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            raise BundleError(f"{path} is damaged: expected SHA-256 {entry.sha256}, found {digest}; {advice}")
        self._read.add(entry.path)
        return content

    def verify(self) -> None:
        """Read every file that the manifest lists and that was not read yet.

        Engines are left out: one that is damaged is built again from its graph.

        Raises:
            BundleError: see `read`.
        """
        for entry in self.manifest.kept:
            if entry.path not in self._read:
                self.read(entry)

    def model(self, role: str, precision: str) -> ModelEntry:
        """Return the entry of a model.

        Raises:
            BundleError: the bundle does not have it.
        """
        for model in self.manifest.models:
            if (model.role, model.precision) == (role, precision):
                return model
        raise BundleError(
            f"{self.path} has no {role} in {precision}, only in {', '.join(self.precisions(role)) or 'no precision'}"
        )

    def precisions(self, role: str) -> list[str]:
        """Return the precisions in which the bundle has a model."""
        return [model.precision for model in self.manifest.models if model.role == role]


def _found(path: str | Path) -> Downloaded:
    """Return where a bundle lies, after its download where it is named on the hub; else its source is empty."""
    name = hub_name(path)
    return download(name) if name else Downloaded(shipped_bundle(Path(path)), "")
