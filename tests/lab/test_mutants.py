"""Mutation testing of a small checkout."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lab.mutants import mutations

SOURCE = """
def count(limit: int = 3) -> int:
    done = 0
    while done < limit:
        done += 1
    return done
"""
PROGRAM = "import sys, lab.mutants as m; m.HEAVY, m.GRACE_S = (), 5; m.main(sys.argv[1:])"
REPOSITORY = Path(__file__).parent.parent.parent


def mutants(root: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run every mutant of SOURCE against a test."""
    files = {
        "runtime/counting/__init__.py": "",
        "runtime/counting/count.py": SOURCE,
        "tests/test_count.py": f"from counting.count import count\ndef test_count():\n    {test}\n",
        "rooms.toml": '[room]\n"runtime/counting/count.py" = ["tests/test_count.py"]\n',
        "pytest.ini": "[pytest]\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=root, check=True)
    options = ["--root", root, "--rooms", root / "rooms.toml", "--each", "99"]
    command = [sys.executable, "-c", PROGRAM, *map(str, options)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_good_test_kills_every_mutant_and_one_that_loops_for_ever_too(tmp_path: Path) -> None:
    done = mutants(tmp_path, "assert (count(), count(5), count(0)) == (3, 5, 0)")
    assert "| room | 6 | 6 | 100% |" in done.stdout, done.stderr
    assert "survived" not in done.stdout
    assert (tmp_path / "runtime/counting/count.py").read_text() == SOURCE


@pytest.mark.slow
def test_what_a_test_does_not_look_at_survives(tmp_path: Path) -> None:
    done = mutants(tmp_path, "assert (count(5), count(0)) == (5, 0)")
    assert "| together | 6 | 5 | 83% |\nsurvived: runtime/counting/count.py:2: 3 -> 4\n" in done.stdout, done.stderr


def test_tests_that_fail_without_a_mutant_are_refused(tmp_path: Path) -> None:
    done = mutants(tmp_path, "assert count(5) == 6")
    assert done.returncode == 1
    assert done.stderr.startswith("expected tests that pass without a mutant, these fail: tests/test_count.py")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b and not c", ["a <= b and (not c)", "a < b or not c", "a < b and c"]),
        ("x: Literal[1] = f(2)", ["x: Literal[1] = f(3)"]),
        ("if x in y:\n    raise Error", ["if x not in y:\n    raise Error", "if x in y:\n    pass"]),
        ("f(True)", ["pass", "f(False)"]),
        ("class A(B, frozen=True):\n    '''1'''", []),
    ],
)
def test_each_mutation_changes_one_place(source: str, expected: list[str]) -> None:
    found = []
    for index in range(len(list(mutations(ast.parse(source))))):
        tree = ast.parse(source)
        list(mutations(tree))[index].apply()
        found.append(ast.unparse(ast.fix_missing_locations(tree)))
    assert sorted(found) == sorted(ast.unparse(ast.parse(text)) for text in expected)
