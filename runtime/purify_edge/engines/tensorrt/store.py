"""A bundle's engine files: which one fits this device and may be loaded, and where a new one goes.

Engines are built beside the ONNX graphs and recorded in the manifest. Where the bundle cannot be written to, ships with
the package, or is signed (a change would break the signature), they go into this user's cache instead, with a list of
the same form.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from purify_edge.bundle.manifest import EngineEntry, FileEntry, Manifest, ModelEntry, encode_manifest
from purify_edge.bundle.reader import MANIFEST, Bundle
from purify_edge.bundle.shipped import is_shipped
from purify_edge.bundle.signing import SIGNATURE
from purify_edge.engines.tensorrt.trust import is_trusted, trust
from purify_edge.errors import BundleError, MissingError
from purify_edge.files import atomic, locked
from purify_edge.machine import user_folder

if TYPE_CHECKING:
    from purify_edge.engines.tensorrt.build import BuiltEngine
    from purify_edge.engines.tensorrt.cudart import Device
    from purify_edge.engines.tensorrt.library import Library
    from purify_edge.engines.tensorrt.options import BuildOptions
    from purify_edge.engines.tensorrt.progress import Progress

logger = logging.getLogger("purify_edge")

LIST = "engines.json"
LOCK = ".engines.lock"


@dataclass(frozen=True, kw_only=True)
class EnginePolicy:
    """What may be done about engine files.

    Attributes:
        build: build an engine where none fits; False refuses instead.
        trust: load the bundle's engines wherever they were built; False: those built by this user only, or where the
            bundle's signature was verified.
    """

    build: bool = True
    trust: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """The engine file that fits, or why there is none.

    Attributes:
        content: the verified and trusted engine, or None.
        entry: its entry; of the one that comes nearest where none fits; None where there is none at all.
        host_code: whether the engine brings a runtime of its own (it was built version compatible).
        reason: why there is none that fits.
    """

    content: bytes | None = None
    entry: EngineEntry | None = None
    host_code: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """The engine files of one model of a bundle."""

    bundle: Bundle
    model: ModelEntry
    policy: EnginePolicy = EnginePolicy()

    def find(
        self, graph: bytes, library: "Library", device: "Device | None", options: "BuildOptions | None" = None
    ) -> Found:
        """Return the engine for this graph, builder and device.

        Args:
            graph: the model.
            library: of the builder.
            device: the GPU; None for none, then an engine's GPU does not matter.
            options: what it must have been built with; None for any.
        """
        nearest = Found(reason="there is no engine of it yet")
        for place in self._places():
            for entry in self._entries(place):
                if entry.key == (self.model.role, self.model.precision, library.builder):
                    nearest = self._look(place, entry, graph, library, device, options)
                    if nearest.content is not None:
                        return nearest
        return nearest

    def _vouched_for(self, place: "Place") -> bool:
        """Return whether a verified signature covers this place: the bundle's does not cover the user's cache."""
        return self.bundle.verified and place.path == self.bundle.path

    def _entries(self, place: "Place") -> tuple[EngineEntry, ...]:
        """Of a verified bundle those that were verified, whatever its manifest says by now."""
        return self.bundle.manifest.engines if self._vouched_for(place) else place.entries()

    def _places(self) -> list["Place"]:
        try:
            home = Place.of(self.bundle)
        except OSError:  # a user without a home
            return [Place(self.bundle.path)]
        return [home] if home.path == self.bundle.path else [Place(self.bundle.path), home]

    def _look(
        self,
        place: "Place",
        entry: EngineEntry,
        graph: bytes,
        library: "Library",
        device: "Device | None",
        options: "BuildOptions | None",
    ) -> Found:
        from purify_edge.engines.tensorrt.fingerprint import read_fingerprint

        fingerprint = read_fingerprint(entry.fingerprint)
        if fingerprint is None:
            return Found(entry=entry, reason="the engine is of another version of purify-edge")
        differences = fingerprint.differences(
            onnx_sha256=hashlib.sha256(graph).hexdigest(),
            precision=self.model.precision,
            library=library,
            device=device,
            options=options,
        )
        if differences:
            return Found(entry=entry, reason=f"the engine does not fit: {'; '.join(differences)}")
        if not (self.policy.trust or self._vouched_for(place) or is_trusted(entry.file.sha256)):
            return Found(
                entry=entry,
                reason="the engine came from elsewhere, and an engine is executable code: "
                "--verify KEY or --trust-engines takes it as it is",
            )
        try:
            content = Bundle(place.path, self.bundle.manifest).read(entry.file)
        except BundleError as error:
            return Found(entry=entry, reason=f"the engine cannot be used: {error}")
        return Found(content=content, entry=entry, host_code=bool(fingerprint.flags.get("version_compatible")))

    def ensure(
        self,
        graph: bytes,
        library: "Library",
        device: "Device | None",
        options: "BuildOptions",
        *,
        force: bool = False,
        progress: "Progress | None" = None,
    ) -> tuple["BuiltEngine", bool]:
        """Return the engine that was built with these options, and whether it was there already; else see `build`.

        Raises:
            OSError: it cannot be kept.
            MissingError, InputError, BuildError: see `build`.
        """
        from purify_edge.engines.tensorrt.build import BuiltEngine, resolve
        from purify_edge.engines.tensorrt.fingerprint import Fingerprint

        options = resolve(options, library, device)
        if options.compute_capabilities:
            device = None  # the engine is for these GPUs, whichever is here
        found = self.find(graph, library, device, options)
        if found.content is not None and found.entry is not None and not force:
            return BuiltEngine(found.content, msgspec.convert(found.entry.fingerprint, Fingerprint)), True
        built = self.build(
            graph,
            library,
            device,
            reason=found.reason or "asked for",
            refused=found.entry,
            options=options,
            progress=progress,
            must_keep=True,
        )
        return built, False

    def build(
        self,
        graph: bytes,
        library: "Library",
        device: "Device | None",
        *,
        reason: str,
        refused: EngineEntry | None = None,
        options: "BuildOptions | None" = None,
        progress: "Progress | None" = None,
        must_keep: bool = False,
    ) -> "BuiltEngine":
        """Build the engine and put it where it will be found; one process builds, others wait and take what it built.

        Where nothing can be written, it is built for this process alone, and the log says so.

        Args:
            graph, library, device: see `find`.
            reason: why; the log tells it.
            refused: an entry whose engine is of no use, so that it is not taken again.
            options: for the builder; None for those of `refused`, else the defaults.
            progress: told how far the build is.
            must_keep: an engine that cannot be kept is an error.

        Raises:
            OSError: the engine must be kept and cannot be.
            MissingError: the policy forbids it, or see `build_engine`.
            InputError, BuildError: see `build_engine`.
        """
        from purify_edge.engines.tensorrt.build import BuiltEngine, build_engine
        from purify_edge.engines.tensorrt.fingerprint import Fingerprint

        source = self.model.file.path
        if not self.policy.build:
            raise MissingError(
                f"{library.title} has no engine for {source} ({reason}), and may build none (--no-build): "
                f"purify-build {self.bundle.path} builds it"
            )
        with ExitStack() as stack:
            place = self._locked_place(stack, must_keep)
            found = self.find(graph, library, device, options)
            if found.content is not None and found.entry is not None and found.entry != refused:
                return BuiltEngine(found.content, msgspec.convert(found.entry.fingerprint, Fingerprint))
            logger.info("%s: building an engine with %s: %s", source, library.title, reason)
            built = build_engine(
                graph,
                library=library,
                options=options or self._like(refused, library),
                precision=self.model.precision,
                source=source,
                device=device,
                progress=progress,
            )
            if place:
                self._save(place, library, built, must_keep)
        for layer in built.gpu_layers:
            logger.info("%s: the DLA leaves %s to the GPU", source, layer)
        return built

    def _locked_place(self, stack: ExitStack, must_keep: bool) -> "Place | None":
        """Return where the engine will go, locked until the stack is closed; None where that cannot be."""
        source = self.model.file.path
        try:
            place = Place.of(self.bundle)
            stack.enter_context(
                place.locked(lambda: logger.info("%s: waiting for another process that builds engines", source))
            )
        except OSError as error:
            if must_keep:
                raise
            logger.info("%s: the engine cannot be kept (%s), each start builds it again", source, error)
            return None
        return place

    def _save(self, place: "Place", library: "Library", built: "BuiltEngine", must_keep: bool) -> None:
        try:
            place.save(self.model, library, built)
        except OSError as error:
            if must_keep:
                raise
            logger.info("%s: the engine cannot be kept (%s)", self.model.file.path, error)

    def _like(self, refused: EngineEntry | None, library: "Library") -> "BuildOptions":
        """Return the options to build an engine again with; the defaults where this builder lacks one of them."""
        from purify_edge.engines.tensorrt.fingerprint import read_fingerprint
        from purify_edge.engines.tensorrt.options import BuildOptions
        from purify_edge.errors import InputError

        fingerprint = read_fingerprint(refused.fingerprint) if refused else None
        if fingerprint is None:
            return BuildOptions()
        try:
            options = fingerprint.options()
            library.refuse(options, self.model.precision)
        except InputError as error:
            logger.info("%s: building with the default options: %s", self.model.file.path, error)
            return BuildOptions()
        return options


@dataclass(frozen=True)
class Place:
    """A folder with engines and the list of them: a bundle and its manifest, or a folder in the user's cache."""

    path: Path

    @classmethod
    def of(cls, bundle: Bundle) -> "Place":
        """Return where new engines of a bundle go."""
        if os.access(bundle.path, os.W_OK) and not (bundle.path / SIGNATURE).exists() and not is_shipped(bundle.path):
            return cls(bundle.path)
        name = hashlib.sha256(encode_manifest(bundle.manifest)).hexdigest()[:16]
        return cls(user_folder("XDG_CACHE_HOME", ".cache") / "engines" / name)

    def locked(self, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock on building into this place."""
        self.path.mkdir(parents=True, exist_ok=True)
        return locked(self.path / LOCK, waiting=waiting)

    def entries(self) -> tuple[EngineEntry, ...]:
        """Return what is there now."""
        if (self.path / MANIFEST).exists():
            return Bundle.open(self.path, allow_failed=True).manifest.engines
        try:
            return msgspec.json.decode((self.path / LIST).read_bytes(), type=tuple[EngineEntry, ...])
        except (OSError, msgspec.DecodeError):
            return ()

    def save(self, model: ModelEntry, library: "Library", built: "BuiltEngine") -> EngineEntry:
        """Add an engine, in place of the one of the same model and builder; to be called with the lock held.

        The file takes a name that holds its hash, then the list is replaced, then the old file goes: whenever the
        process is killed, the list names files that are there and whole.
        """
        entry = engine_entry(model, library, built)
        target = self.path / entry.file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            temporary.write_bytes(built.content)
        trust(entry.file.sha256)
        others = [old for old in self.entries() if old.key != entry.key]
        self._write((*others, entry))
        pattern = f"{model.role}.{model.precision}.{library.extra}*.engine"
        for path in target.parent.glob(pattern):
            if path != target:
                path.unlink(missing_ok=True)
        return entry

    def _write(self, entries: tuple[EngineEntry, ...]) -> None:
        if (self.path / MANIFEST).exists():
            manifest: Manifest = msgspec.structs.replace(
                Bundle.open(self.path, allow_failed=True).manifest, engines=entries
            )
            name, content = MANIFEST, encode_manifest(manifest)
        else:
            name, content = LIST, msgspec.json.encode(entries)
        with atomic(self.path / name) as temporary:
            temporary.write_bytes(content)


def engine_entry(model: ModelEntry, library: "Library", built: "BuiltEngine") -> EngineEntry:
    """Return the manifest's entry of an engine, with the path where it is to be written."""
    digest = hashlib.sha256(built.content).hexdigest()
    path = f"engines/{model.role}.{model.precision}.{library.extra}.{digest[:8]}.engine"
    return EngineEntry(
        role=model.role,
        precision=model.precision,
        builder=library.builder,
        file=FileEntry(path=path, size_bytes=len(built.content), sha256=digest),
        fingerprint=msgspec.to_builtins(built.fingerprint),
    )
