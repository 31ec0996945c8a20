import subprocess
import sys
from pathlib import Path

import pytest

from lab import size
from lab.size import Size, broken_contracts, circles, lines_of, modules_per_package, shared_class_names

FILES = {
    "runtime/house_runtime/__init__.py": "",
    "runtime/house_runtime/one.py": "# one\n\n\ndef f():\n    from house_runtime import two\n",
    "runtime/house_runtime/two.py": "from house_runtime.one import f\n",
    "runtime/house_runtime/deep/__init__.py": "from house_runtime import one\n",
    "runtime/house_runtime/notes.txt": "not counted",
    "tests/test_one.py": "x = 1\n",
    "pyproject.toml": """
        [tool.importlinter]
        root_packages = ["house_runtime"]
        [[tool.importlinter.contracts]]
        name = "one above two"
        type = "layers"
        layers = ["one", "two"]
        containers = ["house_runtime"]
        """,
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))  # circles() adds to it
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "runtime/house_runtime/untracked.py").write_text("x = 1\n")
    return tmp_path


def test_lines_are_those_that_git_tracks_blank_ones_and_comments_included(checkout: Path) -> None:
    found = lines_of(checkout, "runtime", "lab")
    assert {Path(name).name: lines for name, lines in found.items() if lines > 1} == {"one.py": 5}
    assert sum(found.values()) == 7
    assert modules_per_package(found) == {"runtime/house_runtime": 2}


def test_a_class_name_that_two_modules_have_is_named(checkout: Path) -> None:
    for name in ("one", "two"):
        (checkout / f"runtime/house_runtime/{name}.py").write_text(
            f"class Shared: ...\nclass Of{name}: ...\nclass _Own: ...\n"
        )
    assert shared_class_names(checkout, lines_of(checkout, "runtime")) == ["Shared"]


def test_an_import_inside_a_function_closes_a_circle(checkout: Path) -> None:
    assert circles(checkout) == [{"house_runtime.one", "house_runtime.two"}]


@pytest.mark.parametrize(("value", "code"), [(12, 0), (12.5, 1)])
def test_a_broken_bound_is_marked_and_ends_with_1_and_a_missed_goal_is_told(
    value: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        size, "sizes", lambda root: [Size("modules", value, 12, "(a)"), Size("lines", 12345, 9500, is_goal=True)]
    )
    with pytest.raises(SystemExit) as end:
        size.main([])
    assert end.value.code == code
    *_, modules, lines = capsys.readouterr().out.splitlines()
    assert modules == ("| modules | 12.5 (a) | 12 **broken** |" if code else "| modules | 12 (a) | 12 |")
    assert lines == "| lines | 12,345 | 9,500 (goal, missed) |"


def test_a_contract_that_does_not_hold_is_counted(checkout: Path) -> None:
    assert broken_contracts(checkout) == 1
