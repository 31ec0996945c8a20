"""Count how many faults the tests find: `python -m lab.mutants`, or `make mutants`.

A mutant is a copy of the checkout in which one operator, condition, number or statement of a module is another. Each
runs the tests that `mutants.toml` names for its module, in a fork of this process, which has imported the heavy
libraries already. mutmut and cosmic-ray start a Python for each mutant, which then mostly imports PyTorch.
"""

import argparse
import ast
import contextlib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tomllib

from lab.size import tracked

HEAVY = (
    *("pytest", "hypothesis", "torch", "torchvision", "scipy.stats"),
    *("onnx", "onnxscript", "onnxruntime", "PIL.Image"),
)
PATHS = ("toolkit", "export", "runtime")
PAIRS = (
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.In, ast.NotIn),
    (ast.Is, ast.IsNot),
    (ast.And, ast.Or),
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.Continue, ast.Break),
)
SWAPS: dict[type[ast.AST], type[ast.AST]] = dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow), ast.Mult)
SWAPS |= {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}
PATIENCE_S = 1800
GRACE_S = 30
"""What is given to the tests of a mutant beside five times what they take without one."""
UNSEEN = ("annotation", "returns", "decorator_list")
"""Fields of a node in which nothing is changed; nor is it in the keywords of a class, as `frozen=True`."""


@dataclass(frozen=True)
class Mutation:
    """One possible change to a module: its line, its description, and what makes it."""

    line: int
    text: str
    apply: Callable[[], None]


@dataclass(frozen=True)
class MutantOutcome:
    """A mutant, and whether the tests found it."""

    place: str
    killed: bool


def mutations(tree: ast.AST) -> Iterator[Mutation]:
    """Yield every change to a module, in the order of its source; each changes `tree` in place."""
    for name, value in ast.iter_fields(tree):
        if name in UNSEEN or (isinstance(tree, ast.ClassDef) and name == "keywords"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                other = _instead_of(node)
                if other is not None:
                    line = getattr(node, "lineno", getattr(tree, "lineno", 0))
                    yield Mutation(line, f"{_text(node)} -> {_text(other)}", partial(_replace, tree, name, node, other))
                yield from mutations(node)


def _instead_of(node: ast.AST) -> ast.AST | None:
    """Return what a node becomes in a mutant, or None for a node that stays."""
    other: ast.AST | None = None
    match node:
        case ast.Constant(value=bool(value)):
            other = ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            other = ast.Constant(value + 1)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            other = operand
        case ast.Raise() | ast.Expr(value=ast.Call()):
            other = ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            other = ast.Return(ast.Constant(None))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            other = ast.IfExp(test, orelse, body)
        case _ if type(node) in SWAPS:
            other = SWAPS[type(node)]()
    return other


def _replace(parent: ast.AST, field: str, node: ast.AST, other: ast.AST) -> None:
    """Put another node in the place of one of a parent's."""
    value = getattr(parent, field)
    if isinstance(value, list):
        value[next(index for index, given in enumerate(value) if given is node)] = other
    else:
        setattr(parent, field, other)


def _text(node: ast.AST) -> str:
    """Return a node's source in one line, or its name where it has none."""
    if isinstance(node, (ast.expr, ast.stmt)):
        return " ".join(ast.unparse(node).split())[:60]
    return type(node).__name__


def sample(files: list[Path], count: int, seed: int) -> list[tuple[Path, int]]:
    """Draw mutants of some modules: a file and which of its mutations."""
    every = [(file, index) for file in files for index, _ in enumerate(mutations(ast.parse(file.read_text())))]
    return sorted(random.Random(seed).sample(every, min(count, len(every))))


def copy_checkout(root: Path, to: Path) -> None:
    """Copy what git tracks, as it is now."""
    for name in tracked(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name)


def tests_pass(root: Path, tests: list[str], limit_s: float) -> bool:
    """Run tests of a checkout in a fork of this process; False where one fails or they last longer than the limit."""
    with tempfile.TemporaryDirectory() as scratch:
        child = multiprocessing.get_context("fork").Process(target=_run_pytest, args=(root, tests, Path(scratch)))
        child.start()
        child.join(limit_s)
        if child.pid is not None and child.is_alive():
            os.killpg(child.pid, signal.SIGKILL)
            child.join()
        return child.exitcode == 0


def _run_pytest(root: Path, tests: list[str], scratch: Path) -> None:
    """Run pytest, say nothing, and end this process with its exit code."""
    code = 3
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.chdir(root)
        paths = [str(root / path) for path in PATHS]
        sys.path[:0] = [str(root), *paths]
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(scratch / "t"), *tests]))
    finally:
        os._exit(code)


def run_mutant(copy: Path, name: str, index: int, tests: list[str], limit_s: float) -> MutantOutcome:
    """Put one mutant into a copy of the checkout, run the tests, and take it out again."""
    file = copy / name
    source = file.read_text()
    tree = ast.parse(source)
    mutation = list(mutations(tree))[index]
    mutation.apply()
    file.write_text(ast.unparse(ast.fix_missing_locations(tree)))
    try:
        return MutantOutcome(f"{name}:{mutation.line}: {mutation.text}", killed=not tests_pass(copy, tests, limit_s))
    finally:
        file.write_text(source)


def run_room(copy: Path, room: dict[str, list[str]], count: int, seed: int) -> Iterator[MutantOutcome]:
    """Run a sample of a room's mutants, given the tests of each of its modules; some may loop for ever."""
    limits_s: dict[str, float] = {}
    for file, index in sample([copy / name for name in room], count, seed):
        name = str(file.relative_to(copy))
        if name not in limits_s:
            begin = time.monotonic()
            if not tests_pass(copy, room[name], PATIENCE_S):
                raise SystemExit(f"expected tests that pass without a mutant, these fail: {' '.join(room[name])}")
            limits_s[name] = GRACE_S + 5 * (time.monotonic() - begin)
        yield run_mutant(copy, name, index, room[name], limits_s[name])


def table(results: dict[str, list[MutantOutcome]]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the rooms, and the survivors."""
    yield "| room | mutants | killed | share |"
    yield "| --- | --- | --- | --- |"
    rooms = {**results, "together": [outcome for of in results.values() for outcome in of]}
    for name, outcomes in rooms.items():
        killed = sum(outcome.killed for outcome in outcomes)
        yield f"| {name} | {len(outcomes)} | {killed} | {killed / max(1, len(outcomes)):.0%} |"
    yield from (f"survived: {outcome.place}" for outcome in rooms["together"] if not outcome.killed)


def main(arguments: list[str] | None = None) -> None:
    """Print how many of a sample of mutants the tests of each room kill."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout")
    parser.add_argument("--rooms", type=Path, default=Path(__file__).with_suffix(".toml"), help="sources and tests")
    parser.add_argument("--only", action="append", help="a room; may be repeated; default all")
    parser.add_argument("--each", type=int, default=25, help="mutants of a room")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rooms = tomllib.loads(options.rooms.read_text())
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    results: dict[str, list[MutantOutcome]] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(options.root.resolve(), Path(folder))
        for name in options.only or rooms:
            results[name] = []
            for outcome in run_room(Path(folder), rooms[name], options.each, options.seed):
                results[name].append(outcome)
                print(f"{name}: {'killed' if outcome.killed else 'SURVIVED'} {outcome.place}", file=sys.stderr)
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
