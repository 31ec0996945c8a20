"""A bundle's engine files: which one fits this device and may be loaded, and where a new one goes.

Engines are built beside the ONNX graphs and recorded in the manifest. Where the bundle cannot be written to, ships with
the package, or is signed (a change would break the signature), they go into this user's cache instead, with a list of
the same form.

A TensorRT engine is executable code: one that came from elsewhere is not deserialised. The hash in a manifest proves
nothing, because the maker of the engine wrote the manifest too; so the engines that this user built are remembered.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from purify_edge.bundle.hub import blobs_beside
from purify_edge.bundle.manifest import MANIFEST, EngineEntry, FileEntry, ModelEntry, encode_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import is_shipped
from purify_edge.bundle.signing import SIGNATURE
from purify_edge.engines.tensorrt.build import BuiltEngine, build_engine, resolve
from purify_edge.engines.tensorrt.cudart import Device
from purify_edge.engines.tensorrt.feedback import Progress
from purify_edge.engines.tensorrt.fingerprint import Fingerprint, read_fingerprint
from purify_edge.engines.tensorrt.library import Library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import BundleError, InputError, MissingError
from purify_edge.files import atomic, locked
from purify_edge.machine import user_folder

logger = logging.getLogger("purify_edge")

LIST = "engines.json"
LOCK = ".engines.lock"
WAITING = "%s: waiting for another process that builds engines"


@dataclass(frozen=True, kw_only=True)
class EnginePolicy:
    """What may be done about engine files."""

    build: bool = True  # where none fits; False refuses instead
    trust: bool = False  # load engines from anywhere; False: from this user or a bundle whose signature was verified


@dataclass(frozen=True, kw_only=True)
class Found:
    """The verified and trusted engine that fits, or `reason`: why there is none; `entry` is what comes nearest."""

    engine: BuiltEngine | None = None
    entry: EngineEntry | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """The engine files of one model of a bundle."""

    bundle: Bundle
    model: ModelEntry
    policy: EnginePolicy = EnginePolicy()

    def find(self, graph: bytes, library: Library, device: Device | None, options: BuildOptions | None = None) -> Found:
        """Return the engine for this graph, builder and device.

        Args:
            graph: the model.
            library: of the builder.
            device: the GPU; None for none, then an engine's GPU does not matter.
            options: what it must have been built with; None for any.
        """
        digest = hashlib.sha256(graph).hexdigest()

        def differences(fingerprint: Fingerprint) -> list[str]:
            return fingerprint.differences(
                onnx_sha256=digest, precision=self.model.precision, library=library, device=device, options=options
            )

        nearest = Found(reason="there is no engine of it yet")
        for place in self._places():
            is_signed = self.bundle.verified and place.path == self.bundle.path  # the user's cache never is
            for entry in self.bundle.manifest.engines if is_signed else place.entries():
                if entry.key == (self.model.role, self.model.precision, library.builder):
                    nearest = self._look(place, entry, differences, is_signed=is_signed)
                    if nearest.engine:
                        return nearest
        return nearest

    def _places(self) -> list["Place"]:
        places = [Place(self.bundle.path)]
        with suppress(OSError):  # a user without a home
            places.append(Place.of(self.bundle))
        return list(dict.fromkeys(places))

    def _look(
        self, place: "Place", entry: EngineEntry, differences: Callable[[Fingerprint], list[str]], *, is_signed: bool
    ) -> Found:
        fingerprint = read_fingerprint(entry.fingerprint)
        if fingerprint is None:
            return Found(entry=entry, reason="the engine is of another version of purify-edge")
        if found := differences(fingerprint):
            return Found(entry=entry, reason=f"the engine does not fit: {'; '.join(found)}")
        if not (self.policy.trust or is_signed or is_trusted(entry.file.sha256)):
            return Found(
                entry=entry,
                reason="the engine came from elsewhere, and an engine is executable code: "
                "--verify KEY or --trust-engines loads it",
            )
        try:
            content = Bundle(place.path, self.bundle.manifest).read(entry.file)
        except BundleError as error:
            return Found(entry=entry, reason=f"the engine cannot be used: {error}")
        return Found(engine=BuiltEngine(content, fingerprint), entry=entry)

    def ensure(
        self,
        graph: bytes,
        library: Library,
        device: Device | None,
        options: BuildOptions,
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> tuple[BuiltEngine, bool]:
        """Return the engine that was built with these options, and whether it was there already; else see `build`.

        Raises:
            OSError: it cannot be kept.
            MissingError, InputError, BuildError: see `build`.
        """
        options = resolve(options, library, device)
        if options.compute_capabilities:
            device = None  # the engine is for these GPUs, whichever is here
        found = self.find(graph, library, device, options)
        if found.engine and not force:
            return found.engine, True
        if found.engine:
            found = Found(entry=found.entry, reason="requested")
        built = self.build(graph, library, device, found, options=options, progress=progress, must_keep=True)
        return built, False

    def build(
        self,
        graph: bytes,
        library: Library,
        device: Device | None,
        unfit: Found,
        *,
        options: BuildOptions | None = None,
        progress: Progress | None = None,
        must_keep: bool = False,
    ) -> BuiltEngine:
        """Build the engine and put it where it will be found; one process builds, others wait and take what it built.

        Where nothing can be written, it is built for this process alone, and the log says so.

        Args:
            graph, library, device: see `find`.
            unfit: why there must be another one; its entry is not taken again.
            options: for the builder; None for those of the unfit entry, else the defaults.
            progress: gets how far the build is.
            must_keep: an engine that cannot be kept is an error.

        Raises:
            OSError: the engine must be kept and cannot be.
            MissingError: the policy forbids it, or see `build_engine`.
            InputError, BuildError: see `build_engine`.
        """
        source = self.model.file.path
        if not self.policy.build:
            raise MissingError(
                f"{library.title} has no engine for {source} ({unfit.reason}), and may build none (--no-build): "
                f"purify-build {self.bundle.path} builds it"
            )
        with ExitStack() as stack:
            place: Place | None = None
            with self._told(must_keep, ", each start builds it again"):
                home = Place.of(self.bundle)
                stack.enter_context(home.locked(lambda: logger.info(WAITING, source)))
                place = home
            found = self.find(graph, library, device, options)
            if found.engine and found.entry != unfit.entry:
                return found.engine
            logger.info("%s: building an engine with %s: %s", source, library.title, unfit.reason)
            built = build_engine(
                graph,
                library=library,
                options=options or self._options_of(unfit.entry, library),
                precision=self.model.precision,
                source=source,
                device=device,
                progress=progress,
            )
            if place:
                with self._told(must_keep):
                    place.save(self.model, library, built)
        for layer in built.gpu_layers:
            logger.info("%s: the DLA leaves %s to the GPU", source, layer)
        return built

    @contextmanager
    def _told(self, must_keep: bool, consequence: str = "") -> Iterator[None]:
        """Log an engine that cannot be kept, unless that is an error."""
        try:
            yield
        except OSError as error:
            if must_keep:
                raise
            logger.info("%s: the engine cannot be kept (%s)%s", self.model.file.path, error, consequence)

    def _options_of(self, entry: EngineEntry | None, library: Library) -> BuildOptions:
        """Return the options to build an engine again with; the defaults where this builder lacks one of them."""
        fingerprint = read_fingerprint(entry.fingerprint) if entry else None
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
        is_fixed = (bundle.path / SIGNATURE).exists() or is_shipped(bundle.path) or blobs_beside(bundle.path)
        if os.access(bundle.path, os.W_OK) and not is_fixed:
            return cls(bundle.path)
        name = hashlib.sha256(encode_manifest(bundle.manifest)).hexdigest()[:16]
        return cls(user_folder("XDG_CACHE_HOME", ".cache") / "engines" / name)

    @property
    def _is_bundle(self) -> bool:
        return (self.path / MANIFEST).exists()

    def locked(self, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock on building into this place."""
        self.path.mkdir(parents=True, exist_ok=True)
        return locked(self.path / LOCK, waiting=waiting)

    def entries(self) -> tuple[EngineEntry, ...]:
        """Return what is there now."""
        if self._is_bundle:
            return Bundle.open(self.path, allow_failed=True).manifest.engines
        try:
            return msgspec.json.decode((self.path / LIST).read_bytes(), type=tuple[EngineEntry, ...])
        except (OSError, msgspec.DecodeError):
            return ()

    def save(self, model: ModelEntry, library: Library, built: BuiltEngine) -> None:
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
        self._write((*(old for old in self.entries() if old.key != entry.key), entry))
        for path in target.parent.glob(f"{model.role}.{model.precision}.{library.extra}*.engine"):
            if path != target:
                path.unlink(missing_ok=True)

    def _write(self, entries: tuple[EngineEntry, ...]) -> None:
        name, content = LIST, msgspec.json.encode(entries)
        if self._is_bundle:
            manifest = Bundle.open(self.path, allow_failed=True).manifest
            name, content = MANIFEST, encode_manifest(msgspec.structs.replace(manifest, engines=entries))
        with atomic(self.path / name) as temporary:
            temporary.write_bytes(content)


def engine_entry(model: ModelEntry, library: Library, built: BuiltEngine) -> EngineEntry:
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


def _built_here() -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state") / "engines-built-here"


def trust(sha256: str) -> None:
    """Remember an engine that was built here; where that cannot be written, it will be built again."""
    try:
        folder = _built_here()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / sha256).touch(mode=0o600)
    except OSError as error:
        logger.info("cannot remember that this engine was built here (%s): it will be built again", error)


def is_trusted(sha256: str) -> bool:
    """Return whether this user built the engine."""
    try:
        return (_built_here() / sha256).is_file()
    except OSError:
        return False
