"""What purify-ray does: find the files, have them purified and classified by workers, and write what these answer."""

import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purify_edge.bulk.cluster import Cluster, Workers, connect
from purify_edge.bulk.inputs import Inputs, find_inputs
from purify_edge.bulk.purifier import PATH, columns_of
from purify_edge.bulk.results import ResultsFolder
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.plan import AUTO
from purify_edge.engines.registry import engine_row
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.extras import require_library
from purify_edge.shell.progress import Tracker, printable, tracker

ERRORS_TOLD = 20
TOO_MANY = "  further errors are in the results alone, in the column error"


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """What to run, with what, and where to put it."""

    bundle: Path
    inputs: tuple[str, ...]
    out: Path
    engine: str
    precision: str
    verify: Path | None
    policy: EnginePolicy
    workers: Workers
    address: str | None = None
    allow_failed: bool = False
    spare_clean: bool = False
    purified: bool = False
    force: bool = False

    def settings(self, bundle: Bundle, precision: str) -> dict[str, Any]:
        """Return what each worker is given; paths are such that they mean the same in other folders."""
        return {
            "bundle": bundle.source or str(self.bundle.absolute() if self.bundle.exists() else self.bundle),
            "engine": self.engine,
            "precision": precision,
            "verify": self.verify and self.verify.absolute(),
            "policy": self.policy,
            "allow_failed": self.allow_failed,
            "spare_clean": self.spare_clean,
            "purified": self.purified,
            "folder": os.getcwd(),  # noqa: PTH109  # a Path is not what it joins
            "sha256": bundle.sha256,
        }


@dataclass
class BulkSummary:
    """What came of a job."""

    images: int = 0  # with an answer
    suspicious: int = 0
    errors: int = 0
    done_before: int = 0
    repeated: int = 0  # named more than once
    seconds: float = 0.0
    images_per_s: float = 0.0
    plan: str = ""  # what ran them
    passed: str = ""  # what was passed over in folders

    def add(self, rows: Any, progress: Tracker) -> None:
        """Count a table of answers, and report the first errors."""
        errors = [error for error in rows["error"].to_pylist() if error is not None]
        for error in errors[: max(0, ERRORS_TOLD - self.errors)]:
            progress.print(f"Error: {printable(error)}")
        if self.errors < ERRORS_TOLD <= self.errors + len(errors):
            progress.print(TOO_MANY)
        self.errors += len(errors)
        self.images += len(rows) - len(errors)
        self.suspicious += sum(map(bool, rows["suspicious"].to_pylist()))

    @property
    def exit_code(self) -> int:
        """Return the command's: 1 where an image has no answer, 2 where none has one."""
        return 0 if not self.errors else 1 if self.images or self.done_before else 2


def run(job: BulkJob) -> BulkSummary:
    """Run the job, or what is left of it.

    Raises:
        InputError: an input that is no file, folder or glob; `job.out` is another's; see `connect`.
        BundleError, MissingError: see `BulkPurifier`.
    """
    begin_s = time.monotonic()
    if job.engine != AUTO:
        engine_row(job.engine)
    bundle = Bundle.open(job.bundle, verify=job.verify, allow_failed=job.allow_failed)
    require_library("ray", "ray")
    inputs = find_inputs(job.inputs)
    folder = ResultsFolder(
        job.out,
        bundle=bundle,
        precision=job.precision,
        spare_clean=job.spare_clean,
        purified=job.purified,
        fresh=job.force,
    )
    with closing(folder), tracker() as progress:
        summary = _go_through(job, bundle, inputs, folder, progress)
    summary.passed, summary.repeated = str(inputs.passed), inputs.repeated
    summary.seconds = time.monotonic() - begin_s
    summary.images_per_s = (summary.images + summary.errors) / summary.seconds
    return summary


def _go_through(job: BulkJob, bundle: Bundle, inputs: Inputs, folder: ResultsFolder, progress: Tracker) -> BulkSummary:
    todo = [path for path in inputs.paths if path not in folder.done]
    summary = BulkSummary(done_before=len(inputs.paths) - len(todo))
    progress.expect(lambda: len(todo) + len(inputs.broken))
    if todo:
        with connect(job.address) as cluster:
            _purify(job, bundle, todo, folder, cluster, summary, progress)
    else:
        folder.begin(folder.precision)
    if inputs.broken:
        rows = _broken_rows(job, inputs.broken)
        folder.append(rows)
        summary.add(rows, progress)
    return summary


def _purify(
    job: BulkJob,
    bundle: Bundle,
    todo: list[str],
    folder: ResultsFolder,
    cluster: Cluster,
    summary: BulkSummary,
    progress: Tracker,
) -> None:
    count, gpus = cluster.settled(job.workers)
    precision, summary.plan = cluster.inspect(job.settings(bundle, folder.precision), gpus=gpus)
    folder.begin(precision)
    settings = job.settings(bundle, precision)
    progress.print(f"  {bundle.manifest.name}: {summary.plan}; {count} worker{'s' * (count != 1)}")
    for rows in cluster.answers(todo, settings, count=count, gpus=gpus, batch=job.workers.batch):
        folder.append(rows)
        summary.add(rows, progress)
        progress.advance(len(rows))


def _broken_rows(job: BulkJob, broken: dict[str, str]) -> Any:
    """Return rows for names of which no file can be read."""
    pyarrow = require_library("pyarrow", "ray")
    columns = {PATH: "string", **columns_of(spare_clean=job.spare_clean, purified=job.purified)}
    rows = [{PATH: name, "error": error} for name, error in broken.items()]
    return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(columns.items())))
