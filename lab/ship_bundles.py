"""For maintainers: write the bundles that ship with the runtime, from the pre-trained pairs.

Usage: python -m lab.ship_bundles [NAME ...]
"""

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from purify_edge.bundle.shipped import FOLDER
from purify_export.options import ExportOptions
from purify_export.runs import export_run
from purify_toolkit.runs.pretrained import open_run

NAMES = ("fashion-mnist",)
OPTIONS = ExportOptions(fp16=True, targets=["onnx"], rounds=0, force=True)
"""No engines and no latencies, which are of the machine that exports."""


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> None:
    """Export each pair; on one machine the same pair gives the same bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    for name in parser.parse_args(arguments).names:
        run = open_run(name)
        os.environ["SOURCE_DATE_EPOCH"] = str(int(datetime.fromisoformat(run.info["created"]).timestamp()))
        bundle, report = export_run(run, folder / name, OPTIONS, tell=print)
        if not report.passed:
            raise SystemExit(f"{bundle.path} broke a limit: see its report.md")


if __name__ == "__main__":
    main()
