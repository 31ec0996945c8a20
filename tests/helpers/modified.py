"""When the files of a study were written."""

from pathlib import Path

from lab.studies.ablation_table import JUDGED


def modified(folder: Path) -> dict[Path, int]:
    """When every network and result was written."""
    files = [path for name in ("*.safetensors", JUDGED) for path in folder.rglob(name)]
    return {path: path.stat().st_mtime_ns for path in files}
