"""Every name that we use of TensorRT exists: in TensorRT for RTX as installed, and in tensorrt-stubs.

`typings/tensorrt.pyi` lists what is used; mypy refuses all else. tensorrt-stubs itself cannot be parsed by mypy or by
Python (its signatures have syntax errors), so it is searched line by line.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from purify_edge.engines.tensorrt.library import VERSIONS

STUB = Path(__file__).parents[3] / "typings" / "tensorrt.pyi"
OURS = "Module"
INDENT = 4


def used() -> Iterator[tuple[str, str]]:
    """Dotted name and the comment of each attribute and method in our stub."""
    text = STUB.read_text()
    lines = text.splitlines()

    def walk(nodes: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
        for node in nodes:
            comment = lines[node.lineno - 1].partition("#")[2].strip()
            if isinstance(node, ast.ClassDef) and node.name != OURS:
                yield f"{prefix}{node.name}", comment
                yield from ((name, own or comment) for name, own in walk(node.body, f"{prefix}{node.name}."))
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
                yield f"{prefix}{node.name}", comment
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and prefix:
                yield f"{prefix}{node.target.id}", comment

    yield from walk(ast.parse(text).body, "")


NAMES = list(used())


def test_the_list_is_not_empty() -> None:
    assert len(NAMES) > 100


@pytest.mark.parametrize(("name", "comment"), [pair for pair in NAMES if "TensorRT only" not in pair[1]])
def test_it_exists_in_tensorrt_for_rtx(name: str, comment: str) -> None:
    found = pytest.importorskip("tensorrt_rtx")
    for part in name.split("."):
        assert hasattr(found, part), name
        found = getattr(found, part)


@pytest.fixture(scope="module")
def stubs() -> dict[str, set[str]]:
    """The classes of tensorrt-stubs and their members."""
    for entry in sys.path:
        path = Path(entry or ".") / "tensorrt_bindings" / "tensorrt.pyi"
        if path.is_file():
            break
    else:
        pytest.skip("tensorrt-stubs is not installed")
    members: dict[str, set[str]] = {}
    current = owner = ""
    documentation = False
    for line in path.read_text().splitlines():
        documentation ^= line.count('"""') % 2 == 1
        if documentation:  # where attributes are told of, beside examples
            members[current].update(re.findall(r" :ivar (\w+):", line)) if current else None
        elif found := re.match(r"( *)class (\w+)", line):
            current = found[2]
            members.setdefault(current, set())
            if found[1]:  # Severity in ILogger
                members[owner].add(current)
            else:
                owner = current
        elif current and (found := re.match(r"( +)(?:def )?(\w+)\s*[(:=]", line)):
            members[owner if len(found[1]) == INDENT else current].add(found[2])
    return members


@pytest.mark.parametrize(("name", "comment"), [pair for pair in NAMES if "RTX only" not in pair[1]])
def test_it_exists_in_tensorrts_stubs(stubs: dict[str, set[str]], name: str, comment: str) -> None:
    *classes, last = name.split(".")
    owner = classes[-1] if classes else None
    assert last in (stubs if owner is None else stubs[owner]), name


def test_every_flag_of_the_table_is_in_the_list() -> None:
    names = {name for name, _ in NAMES}
    for rows in VERSIONS.values():
        for row in rows:
            flags = [*row.builder_flags, *(row.precision_flags or {}).values()]
            assert {f"BuilderFlag.{flag}" for flag in flags} <= names
            assert {f"NetworkDefinitionCreationFlag.{flag}" for flag in row.network_flags} <= names
            assert f"ICudaEngine.{row.memory_size}" in names
