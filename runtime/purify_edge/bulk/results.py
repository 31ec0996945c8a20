"""The folder that a bulk run writes: Parquet files, of which each is there whole or not at all.

Only the command's process writes, even if workers die. So an image is done when its row is in a file, and has one row,
though a worker that died may have processed it before.
"""

import json
import time
from pathlib import Path
from typing import Any

import msgspec

from purify_edge.bundle.reader import Bundle
from purify_edge.engines.plan import AUTO
from purify_edge.errors import InputError
from purify_edge.extras import require_library
from purify_edge.files import atomic, try_lock, write_json

CONTENT_FILE, LOCK_FILE = "_purify-ray.json", "_lock"  # readers of Parquet pass over names like these
PARTS = "part-*.parquet"
PART_ROWS, PART_BYTES = 200_000, 64 * 2**20
PART_SHARE, PART_S = 0.1, (1.0, 60.0)
"""A file is written when so many rows or bytes are there, or after this share of the time so far, within bounds: what a
kill costs at most."""


class FolderContent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rows of a folder are of; rows of other kinds are not put beside them."""

    bundle: str
    sha256: str  # of the bundle's manifest
    precision: str
    purified: bool
    spare_clean: bool = False

    def __str__(self) -> str:
        """Describe it, beginning as `purify-run` names a model."""
        rule = "+spare-clean" if self.spare_clean else ""
        images = ", with purified images" if self.purified else ", without purified images"
        return f"{self.bundle}/{self.precision}@{self.sha256[:12]}{rule}{images}"


class ResultsFolder:
    """A folder of results that only grows. One process at a time writes there.

    Attributes:
        done: the paths that have a row.
        precision: that of the rows which are there, else the requested one, which may be `auto`.

    Raises:
        InputError: the folder is another's: it holds other things, results of other kinds, or is in use.
        MissingError: pyarrow is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        bundle: Bundle,
        precision: str,
        purified: bool,
        spare_clean: bool = False,
        fresh: bool = False,
    ) -> None:
        self.path, self.done = path, set[str]()
        self._asked = FolderContent(
            bundle=bundle.manifest.name,
            sha256=bundle.sha256,
            precision=precision,
            purified=purified,
            spare_clean=spare_clean,
        )
        self._pyarrow, self._parquet = require_library("pyarrow", "ray"), require_library("pyarrow.parquet", "ray")
        self._tables: list[Any] = []
        self._rows = self._bytes = 0
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder for the results")
        taken = path.is_dir() and any(entry.name != LOCK_FILE for entry in path.iterdir())
        if taken and not fresh and not (path / CONTENT_FILE).is_file():
            raise InputError(f"{path} exists and holds no results of purify-ray; name another, or use --force")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / LOCK_FILE).open("a")
        try:
            if not try_lock(self._lock):
                raise InputError(f"{path} is being written by another purify-ray; wait for its end, or name another")
            self._take_up(fresh=fresh)
        except BaseException:
            self._lock.close()
            raise
        self._begin_s = self._written_s = time.monotonic()

    def _take_up(self, *, fresh: bool) -> None:
        for leftover in self.path.glob(".new-*"):  # of a process that was killed
            leftover.unlink()
        parts = sorted(self.path.glob(PARTS))
        if fresh:
            for part in (self.path / CONTENT_FILE, *parts):
                part.unlink(missing_ok=True)
            parts = []
        self.precision = self._precision()
        for part in parts:
            self._keep(part)
        self._number = max((int(part.stem.rpartition("-")[2]) for part in parts), default=0)

    def _precision(self) -> str:
        """Return the precision that rows are to have, where the folder's are of the requested kind."""
        path = self.path / CONTENT_FILE
        if not path.is_file():
            return self._asked.precision
        try:
            there = msgspec.convert(json.loads(path.read_bytes()), FolderContent)
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}); name another folder, or use --force") from error
        asked = self._asked
        if asked.precision == AUTO:
            asked = msgspec.structs.replace(asked, precision=there.precision)
        if there.precision == AUTO:  # no image was run
            there = msgspec.structs.replace(there, precision=asked.precision)
        if there != asked:
            raise InputError(f"{self.path} was written with {there}, this is {asked}; name another, or use --force")
        return there.precision

    def _keep(self, part: Path) -> None:
        """Note what is done in a file, and drop the rows without an answer: these images are done again."""
        try:
            rows = self._parquet.read_table(part, columns=["path", "error"])
            good = rows["error"].is_null()
            if not all(good.to_pylist()):
                self._replace(part, self._parquet.read_table(part).filter(good))
        except (self._pyarrow.ArrowException, OSError, KeyError) as error:
            raise InputError(
                f"{part} is an incomplete file of results; remove it, and its images are done again"
            ) from error
        self.done.update(rows["path"].filter(good).to_pylist())

    def _replace(self, part: Path, rows: Any) -> None:
        if not len(rows):
            part.unlink()
            return
        with atomic(part) as temporary:
            self._parquet.write_table(rows, temporary, compression="zstd")

    def begin(self, precision: str) -> None:
        """Say in the folder what its rows are of, before there are any."""
        content = msgspec.structs.replace(self._asked, precision=precision)
        write_json(self.path / CONTENT_FILE, msgspec.to_builtins(content))

    def append(self, rows: Any) -> None:
        """Add rows, a pyarrow.Table, of images that are not done; they are written now and then."""
        self.done.update(rows["path"].to_pylist())
        self._tables.append(rows)
        self._rows, self._bytes = self._rows + len(rows), self._bytes + rows.nbytes
        now = time.monotonic()
        pause_s = min(max(PART_S[0], PART_SHARE * (now - self._begin_s)), PART_S[1])
        if self._rows >= PART_ROWS or self._bytes >= PART_BYTES or now - self._written_s > pause_s:
            self.write()

    def write(self) -> None:
        """Write the rows that are not in a file yet."""
        if self._tables:
            self._number += 1
            part = self.path / f"part-{self._number:06d}.parquet"
            self._replace(part, self._pyarrow.concat_tables(self._tables))
        self._tables, self._rows, self._bytes = [], 0, 0
        self._written_s = time.monotonic()

    def close(self) -> None:
        """Write what there is, and let others write."""
        try:
            self.write()
        finally:
            self._lock.close()
