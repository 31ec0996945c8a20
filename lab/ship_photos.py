"""For maintainers: write the packed bundle `photos` from a run, and save its attacked pictures for `make demo-photos`.

Usage: python -m lab.ship_photos RUN [--data DIR]

The run is of the purifier as it is, before a classifier whose weights compress well:
purify-train photos --as-is --data DIR --unlabelled --size 224x224 --classifier lab/photographs/lite.py:lite0_half
    --class-names FILE --out RUN

DIR/test holds the pictures that ship, DIR/validation at least 99 others, which set the thresholds.
"""

import argparse
import os
import tarfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import archive_of
from purify_edge.files import atomic
from purify_export.options import ExportOptions
from purify_export.runs import export_run
from purify_toolkit.runs.folder import RunFolder

NAME = "photos"
OPTIONS = ExportOptions(fp16=False, targets=["onnx"], rounds=0)
LIMIT = 15 * 2**20
SHOWN = Path(__file__).parent / "photographs" / "shown" / "attacked"


def main(arguments: Sequence[str] | None = None, archive: Path | None = None, shown: Path = SHOWN) -> None:
    """Export, pack, and save what the attack made of the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="default the images in the run")
    options = parser.parse_args(arguments)
    run = RunFolder(options.run)
    os.environ["SOURCE_DATE_EPOCH"] = str(int(datetime.fromisoformat(run.info["created"]).timestamp()))
    with TemporaryDirectory() as folder:
        bundle, report = export_run(run, Path(folder) / NAME, OPTIONS, data=options.data, tell=print)
        if not report.passed:
            raise SystemExit(f"{NAME} broke a limit: {[check.name for check in report.checks if not check.passed]}")
        size = pack(bundle.path, archive or archive_of(NAME))
        save_attacked(bundle, shown)
    if size > LIMIT:
        raise SystemExit(f"the archive has {size:,} bytes, more than {LIMIT:,}: leave out a picture")


def pack(folder: Path, archive: Path) -> int:
    """Write a bundle's files as an archive, of which the same files give the same bytes; return its size."""
    with atomic(archive) as temporary, tarfile.open(temporary, "w:xz", preset=9) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = packed.gettarinfo(path, str(path.relative_to(folder)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode = 0, 0, 0, "", "", 0o644
            with path.open("rb") as content:
                packed.addfile(entry, content)
    return archive.stat().st_size


def save_attacked(bundle: Bundle, folder: Path) -> None:
    """Save the golden set's attacked pictures, without loss."""
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(load_golden(bundle)["adversarial"].images):
        Image.fromarray(pixels).save(folder / f"{index}.png", optimize=True)


if __name__ == "__main__":
    main()
