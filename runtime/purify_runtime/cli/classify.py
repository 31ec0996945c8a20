"""What purify-run does: read files in batches, purify, classify, print, save."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from purify_runtime.engine_files import EnginePolicy
from purify_runtime.errors import InputError
from purify_runtime.files import atomic
from purify_runtime.grid import GRID_IMAGES, Tile, draw_grid
from purify_runtime.images import read_image, to_8bit
from purify_runtime.pipeline import BATCH, Pipeline


@dataclass(frozen=True, kw_only=True)
class Result:
    """One file: the pipeline's word for it, and the classifier's alone; or why it could not be read."""

    file: Path
    error: str = ""
    label: int = -1
    class_name: str = ""
    probability: float = 0.0
    unpurified_class_name: str = ""
    unpurified_probability: float = 0.0
    saved: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.error:
            return {"file": str(self.file), "error": self.error}
        return {
            "file": str(self.file),
            "label": self.label,
            "class": self.class_name,
            "probability": self.probability,
            "unpurified_class": self.unpurified_class_name,
            "unpurified_probability": self.unpurified_probability,
        } | ({"saved": str(self.saved)} if self.saved else {})


@dataclass(kw_only=True)
class Job:
    """What to run and where to put it."""

    bundle: Path
    files: tuple[Path, ...]
    engine: str
    precision: str
    verify: Path | None
    policy: EnginePolicy
    save: Path | None
    save_grid: Path | None
    force: bool
    allow_failed: bool = False
    _names: set[str] = field(default_factory=set)

    def run(self) -> Iterator[Result]:
        """Go through the files; one result each, in order.

        Raises:
            InputError: an output exists and `force` is off.
            BundleError, MissingError: see `Pipeline.load`.
        """
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused by our own limit
        self._prepare_outputs()
        tiles: list[Tile] = []
        with Pipeline.load(
            self.bundle,
            engine=self.engine,
            precision=self.precision,
            verify=self.verify,
            policy=self.policy,
            allow_failed=self.allow_failed,
        ) as pipeline:
            files = iter(self.files)
            while batch := list(islice(files, BATCH)):
                yield from self._batch(pipeline, batch, tiles)
        if self.save_grid and tiles:
            with atomic(self.save_grid) as temporary:
                draw_grid(tiles).save(temporary, format="PNG")

    def _prepare_outputs(self) -> None:
        for path in (self.save, self.save_grid):
            if path is None or self.force:
                continue
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                raise InputError(f"{path} exists; --force writes into it, or name another")
        if self.save:
            self.save.mkdir(parents=True, exist_ok=True)
        if self.save_grid:
            self.save_grid.parent.mkdir(parents=True, exist_ok=True)

    def _batch(self, pipeline: Pipeline, files: Sequence[Path], tiles: list[Tile]) -> Iterator[Result]:
        images: dict[Path, NDArray[np.uint8]] = {}
        errors: dict[Path, str] = {}
        for file in files:
            try:
                images[file] = read_image(file, pipeline.input)
            except InputError as error:
                errors[file] = str(error)
        if images:
            stacked = np.stack(list(images.values()))
            prediction, alone = pipeline.predict(stacked), pipeline.classify(stacked)
        rows = {file: row for row, file in enumerate(images)}
        for file in files:
            if file in errors:
                yield Result(file=file, error=errors[file])
                continue
            row = rows[file]
            label, unpurified = int(prediction.labels[row]), int(alone[row].argmax())
            result = Result(
                file=file,
                label=label,
                class_name=pipeline.class_names[label],
                probability=float(prediction.probabilities[row, label]),
                unpurified_class_name=pipeline.class_names[unpurified],
                unpurified_probability=float(alone[row, unpurified]),
                saved=self._save(file, prediction.purified[row]),
            )
            if self.save_grid and len(tiles) < GRID_IMAGES:
                words = (result.unpurified_class_name, result.class_name)
                tiles.append(Tile(file.name, images[file], prediction.purified[row], *words))
            yield result

    def _save(self, file: Path, purified: NDArray[np.float32]) -> Path | None:
        if self.save is None:
            return None
        name, count = file.stem, 1
        while name in self._names:  # two files of one name in different folders
            count += 1
            name = f"{file.stem}-{count}"
        self._names.add(name)
        path = self.save / f"{name}.png"
        with atomic(path) as temporary:
            to_8bit(purified).save(temporary, format="PNG")
        return path


def run(job: Job, *, as_json: bool) -> int:
    """Run the job and print its results; the command's exit code."""
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for result in progress.track(job.run(), total=len(job.files), description="purifying"):
            results.append(result)
            if as_json:
                click.echo(json.dumps(result.as_dict()))
            elif result.error:
                progress.console.print(f"Error: {result.error}", markup=False, highlight=False, soft_wrap=True)
    failed = sum(bool(result.error) for result in results)
    if not as_json and failed < len(results):
        _print_table(results)
    return 0 if not failed else 2 if failed == len(results) else 1


def _print_table(results: Sequence[Result]) -> None:
    table = Table("file", "purified", "", "as it came", "", header_style="bold")
    for result in results:
        if result.error:
            continue
        changed = "yellow" if result.class_name != result.unpurified_class_name else ""
        table.add_row(
            escape(result.file.name),
            escape(result.class_name),
            f"{100 * result.probability:.1f}%",
            escape(result.unpurified_class_name),
            f"{100 * result.unpurified_probability:.1f}%",
            style=changed,
        )
    Console().print(table)
