"""The folder of a bulk run: what is refused, what is kept, and what is done again."""

from pathlib import Path
from typing import Any

import pytest

from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError

pyarrow = pytest.importorskip("pyarrow", reason="needs purify-edge[ray]")
parquet = pytest.importorskip("pyarrow.parquet")

from purify_edge.bulk.results import ResultsFolder  # noqa: E402


def opened(path: Path, bundle: Path, **options: Any) -> ResultsFolder:
    return ResultsFolder(path, **{"bundle": Bundle.open(bundle), "precision": "fp32", "purified": False} | options)


def rows(*names: str, error: str | None = None) -> Any:
    schema = pyarrow.schema([("path", "string"), ("error", "string")])
    return pyarrow.Table.from_pylist([{"path": name, "error": error} for name in names], schema=schema)


def paths_in(folder: Path) -> list[str]:
    return sorted(parquet.read_table(folder)["path"].to_pylist())


@pytest.fixture
def folder(bundle_path: Path, tmp_path: Path) -> Path:
    """Results of two files, and of one that could not be read."""
    path = tmp_path / "out"
    folder = opened(path, bundle_path)
    folder.begin("fp32")
    folder.append(rows("a", "b"))
    folder.write()
    folder.append(rows("c", error="c is empty"))
    folder.close()
    return path


def test_what_has_an_answer_is_done_and_errors_are_done_again(folder: Path, bundle_path: Path) -> None:
    assert paths_in(folder) == ["a", "b", "c"]
    again = opened(folder, bundle_path)
    assert again.done == {"a", "b"}
    again.append(rows("c"))
    again.close()
    assert paths_in(folder) == ["a", "b", "c"]
    assert opened(folder, bundle_path).done == {"a", "b", "c"}


def test_an_error_beside_answers_is_dropped_alone(folder: Path, bundle_path: Path) -> None:
    more = opened(folder, bundle_path)
    more.append(pyarrow.concat_tables([rows("d"), rows("e", error="e is empty")]))
    more.close()
    assert opened(folder, bundle_path).done == {"a", "b", "d"}
    assert paths_in(folder) == ["a", "b", "d"]


def test_precision_auto_stays_what_it_was(folder: Path, bundle_path: Path) -> None:
    assert opened(folder, bundle_path, precision="auto").precision == "fp32"


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"purified": True}, {"spare_clean": True}])
def test_results_of_another_kind_are_refused(folder: Path, bundle_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"was written with fashion-mnist/fp32@.*this is .*--force"):
        opened(folder, bundle_path, **options)
    opened(folder, bundle_path, fresh=True, **options).close()
    assert not list(folder.glob("*.parquet"))


def test_results_of_another_bundle_are_refused(folder: Path, bundle_copy: Path) -> None:
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(InputError, match="was written with"):
        opened(folder, bundle_copy)


def test_a_folder_of_others_is_refused(tmp_path: Path, bundle_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="holds no results of purify-ray"):
        opened(tmp_path, bundle_path)
    with pytest.raises(InputError, match="is a file"):
        opened(tmp_path / "mine.txt", bundle_path)
    opened(tmp_path, bundle_path, fresh=True).close()
    assert (tmp_path / "mine.txt").exists()


def test_a_folder_in_use_is_refused(folder: Path, bundle_path: Path) -> None:
    first = opened(folder, bundle_path)
    with pytest.raises(InputError, match="another purify-ray"):
        opened(folder, bundle_path)
    first.close()
    opened(folder, bundle_path).close()


def test_a_damaged_file_and_a_damaged_description_are_told(folder: Path, bundle_path: Path) -> None:
    (folder / ".new-1234").write_text("half written")
    part = folder / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-000001\.parquet is an incomplete file of results"):
        opened(folder, bundle_path)
    assert not (folder / ".new-1234").exists()
    (folder / "_purify-ray.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        opened(folder, bundle_path)
