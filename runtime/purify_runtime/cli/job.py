"""What purify-run is asked to do."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from purify_runtime.bundle import MANIFEST, Bundle
from purify_runtime.engine_files import EnginePolicy
from purify_runtime.errors import InputError


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
    metrics: str | None = None

    def check_outputs(self) -> None:
        """See that nothing is overwritten which was not asked for.

        Raises:
            InputError: an output exists, `force` is off, and there are no results to go on with.
        """
        if self.force or (self.out and self.out.exists()):
            return
        for path in (self.save, self.save_grid, self.annotate):
            if path and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
                raise InputError(f"{path} exists; --force writes into it, or name another")

    def model(self) -> str:
        """What results call the models."""
        name = Bundle.open(self.bundle, allow_failed=self.allow_failed).manifest.name
        digest = hashlib.sha256((self.bundle / MANIFEST).read_bytes()).hexdigest()
        return f"{name}/{self.precision}@{digest[:12]}"
