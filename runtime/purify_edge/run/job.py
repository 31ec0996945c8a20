"""What purify-run is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import InputError
from purify_edge.images.cameras.camera import RECONNECT_S
from purify_edge.images.grid import is_grid
from purify_edge.run.results import format_of, results_in
from purify_edge.run.saving import is_unfinished


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run and where to put it."""

    bundle: Path
    inputs: tuple[str, ...]
    engine: str
    precision: str
    verify: Path | None
    policy: EnginePolicy
    allow_failed: bool = False
    save: Path | None = None
    save_grid: Path | None = None
    annotate: Path | None = None
    out: Path | None = None
    force: bool = False
    alert: bool = False
    spare_clean: bool = False
    metrics: str | None = None
    raw: tuple[int, int] | None = None  # width and height of the frames on standard input
    reconnect_s: float = RECONNECT_S
    max_latency_ms: float | None = None  # of a camera's frames
    shard: tuple[int, int] | None = None  # which part of the images, from 0, and of how many

    def check_outputs(self) -> None:
        """Check that nothing is overwritten unless requested.

        Raises:
            InputError: `out` has a name that is no results file's; or an output exists, `force` is off, and it is not
                that of a run which can be continued.
        """
        if self.out:
            format_of(self.out)
        for path in (self.save_grid, self.annotate):
            if path and path.is_dir():
                raise InputError(f"{path} is a folder; name a file")
        for path in () if self.force else (self.save, self.save_grid, self.annotate):
            taken = path and (path.is_file() or (path.is_dir() and any(path.iterdir())))
            if path and taken and not self._can_go_on(path):
                raise InputError(f"{path} exists; --force writes into it, or name another")

    def _can_go_on(self, path: Path) -> bool:
        """Return whether an earlier run of this job left the output.

        A folder is one that a killed run was writing into, or that the file of results names; a picture is a grid,
        which is drawn again, beside results to go on with.
        """
        if not (self.out and self.out.exists()):
            return False
        if path == self.save:
            saved = (result.saved for result in results_in(self.out))
            return is_unfinished(path) or any(name and Path(name).is_relative_to(path) for name in saved)
        return path == self.save_grid and is_grid(path) and any(results_in(self.out))

    def model(self, bundle: Bundle, precision: str) -> str:
        """Return what results call the models, and the rule by which these answer."""
        return f"{bundle.manifest.name}/{precision}@{bundle.sha256[:12]}{'+spare-clean' if self.spare_clean else ''}"
