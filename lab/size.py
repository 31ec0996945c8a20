"""Print the size of the house and hold it against its bounds: `python -m lab.size`, or `make size`."""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grimp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SOURCES = ("runtime", "toolkit", "export", "lab")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Size:
    """A figure, its bound, and what it was counted at, where that helps; a goal may be missed, and is shown as such."""

    name: str
    value: float
    limit: float
    where: str = ""
    is_goal: bool = False

    @property
    def is_broken(self) -> bool:
        """Return whether a bound that must hold does not."""
        return self.value > self.limit and not self.is_goal

    def __str__(self) -> str:
        """Return the row of a Markdown table."""
        value, limit = (f"{number:,.1f}".removesuffix(".0") for number in (self.value, self.limit))
        mark = " **broken**" if self.is_broken else " (goal, missed)" if self.value > self.limit else ""
        return f"| {self.name} | {value} {self.where}".rstrip() + f" | {limit}{mark} |"


def tracked(root: Path, *patterns: str) -> list[str]:
    """Return the files of a checkout that git tracks, and that are there."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def lines_of(root: Path, *folders: str) -> dict[str, int]:
    """Return the lines of every Python file that git tracks in the folders, blank ones and comments included."""
    found = tracked(root, *(f"{folder}/*.py" for folder in folders))
    return {name: len((root / name).read_text().splitlines()) for name in found}


def modules_per_package(files: dict[str, int]) -> Counter[str]:
    """Return how many modules each package has beside its `__init__` and its sub-packages."""
    packages = {str(Path(name).parent) for name in files if Path(name).name == "__init__.py"}
    modules = [str(Path(name).parent) for name in files if Path(name).name != "__init__.py"]
    return Counter(parent for parent in modules if parent in packages)


def shared_class_names(root: Path, files: dict[str, int]) -> list[str]:
    """Return the names that two or more public classes of the sources have."""
    names = Counter(
        node.name
        for file in files
        for node in ast.parse((root / file).read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return sorted(name for name, count in names.items() if count > 1)


def circles(root: Path) -> list[set[str]]:
    """Return the sets of modules that import each other in a circle, also through imports inside functions."""
    top = [path.parent.name for folder in SOURCES for path in (root / folder).glob("*/__init__.py") if folder != "lab"]
    top += ["lab"] if (root / "lab/__init__.py").exists() else []
    sys.path[:0] = [str(root), *(str(root / folder) for folder in SOURCES)]
    graph = grimp.build_graph(top[0], *top[1:], cache_dir=None, exclude_type_checking_imports=True)
    names = sorted(graph.modules)
    number = {name: index for index, name in enumerate(names)}
    edges = [(number[name], number[other]) for name in names for other in graph.find_modules_directly_imported_by(name)]
    tails, heads = zip(*edges, strict=True)
    matrix = coo_array(([True] * len(edges), (tails, heads)), shape=(len(names), len(names)))
    _, labels = connected_components(matrix, connection="strong")
    groups = [{names[index] for index in (labels == label).nonzero()[0]} for label in set(labels)]
    return [group for group in groups if len(group) > 1]


def broken_contracts(root: Path) -> int:
    """Return how many of import-linter's contracts do not hold."""
    environment = os.environ | {"PYTHONPATH": ":".join(str(root / folder) for folder in SOURCES)}
    command = [str(BIN / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) broken\.", done.stdout)
    if found is None:
        raise SystemExit(f"expected import-linter's verdict, got: {done.stdout}{done.stderr}")
    return int(found[1])


def not_imperative(root: Path) -> int:
    """Return how many docstrings ruff's D401 complains of."""
    command = [str(BIN / "ruff"), "check", "--select", "D401", "--output-format", "json", *SOURCES]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return len(json.loads(done.stdout))


def wheel_mb(root: Path) -> float:
    """Return the megabytes of the wheel that pip builds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(root)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return next(Path(folder).glob("purify_edge-*.whl")).stat().st_size / 1e6


def sizes(root: Path) -> Iterator[Size]:
    """Yield every figure of a checkout."""
    source, tests = lines_of(root, *SOURCES), lines_of(root, "tests")
    package, most = modules_per_package(source).most_common(1)[0]
    longest = max(source, key=lambda name: source[name])
    yield Size("lines of runtime/", sum(lines_of(root, "runtime").values()), 9_500, is_goal=True)
    yield Size("lines of all source", sum(source.values()), 21_000, is_goal=True)
    yield Size("lines of tests/", sum(tests.values()), 17_500, is_goal=True)
    yield Size("lines of the longest module", source[longest], 400, f"({longest})")
    yield Size("modules of the largest package", most, 12, f"({package})")
    shared = shared_class_names(root, source)
    yield Size("class names used twice", len(shared), 0, f"({', '.join(shared)})" if shared else "")
    yield Size("circles of imports", len(circles(root)), 0)
    yield Size("broken import contracts", broken_contracts(root), 0)
    yield Size("docstrings that D401 refuses", not_imperative(root), 0)
    yield Size("wheel, MB", wheel_mb(root), 9)


def main(arguments: list[str] | None = None) -> None:
    """Print the sizes of a checkout; exit code 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout")
    found = list(sizes(parser.parse_args(arguments).root.resolve()))
    print("| figure | value | bound |\n| --- | --- | --- |", *found, sep="\n")
    raise SystemExit(int(any(size.is_broken for size in found)))


if __name__ == "__main__":
    main()
