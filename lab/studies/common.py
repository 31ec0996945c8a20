"""What the studies share: changed recipes, run folders begun in advance, tables, the edge to the shell."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from purify_edge.document.markdown import markdown_table
from purify_edge.document.model import table
from purify_edge.files import atomic, write_json
from purify_edge.shell.command import Command
from purify_edge.shell.stages import StageProgress
from purify_toolkit.data.splits import ImageData
from purify_toolkit.device.processes import Processes
from purify_toolkit.device.provenance import provenance
from purify_toolkit.recipe import Recipe, parse_recipe
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.request import Request, begin_folder, open_folder
from purify_toolkit.train.stages import Stages
from purify_toolkit.train.trainer import Trainer

Changes = Mapping[str, Mapping[str, object]]
"""Tables of a recipe, and the keys to replace in each."""
INTERRUPTED = 130
GOES_ON = "the same command goes on from the last full epoch"


def changed(recipe: Recipe, changes: Changes) -> str:
    """Return the TOML text of a recipe with some keys replaced; raise InputError where they do not fit."""
    tables = msgspec.to_builtins(recipe)
    for name, keys in changes.items():
        tables[name] = (tables[name] or {}) | dict(keys)
    text = toml(tables)
    parse_recipe(text, source="the changed recipe")
    return text


def toml(tables: Mapping[str, object]) -> str:
    """Return values and tables of values as TOML, without those that are None.

    >>> print(toml({"dataset": "mnist", "channels": None, "teacher": {"width": 8, "weight_decay": 1e-05}}), end="")
    dataset = "mnist"
    [teacher]
    width = 8
    weight_decay = 1e-05
    """
    lines, below = [], []
    for key, value in tables.items():
        if isinstance(value, Mapping):
            below += [f"[{key}]\n", toml(value)]
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + below)


def begin(request: Request, data: ImageData) -> RunFolder:
    """Return the run folder of a request, a new one or one to go on with, untrained; `data` is already limited."""
    run = open_folder(request)
    begin_folder(run, request, data)
    return run


def train_stage(
    name: str,
    run: RunFolder,
    data: ImageData,
    *,
    seed: int,
    device: torch.device,
    progress: StageProgress,
    validate: bool = True,
) -> None:
    """Train one network of a run from where it stands, unless it is trained; validate it after each epoch if asked."""
    if not run.has(name):
        processes = Processes(device)
        stage = Stages(run, data, processes=processes).build(name)
        if not validate:
            stage = replace(stage, validate=dict)
        Trainer(stage, run, count=len(data.train), seed=seed, processes=processes, progress=progress).train()


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a study's docstring as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def markdown(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table as Markdown.

    >>> print(markdown(["a", "b"], [[1, 2]]), end="")
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    return f"{markdown_table(table('', header, [map(str, row) for row in rows], text_columns=len(header)))}\n"


def write_results(folder: Path, name: str, results: Mapping[str, Any], text: str) -> None:
    """Write a study's results as NAME.json, with what made them, and as NAME.md."""
    write_json(folder / f"{name}.json", {**results, "written_with": provenance()})
    with atomic(folder / f"{name}.md") as temporary:
        temporary.write_text(text)


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def numbers(text: str, least: int = 0) -> tuple[int, ...]:
    """Return the whole numbers of a list such as `0,1,2`, each once, for argparse."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise argparse.ArgumentTypeError(f"expected numbers from {least} on with commas between, got {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def positive(text: str) -> int:
    """Return a count, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def guarded(main: Callable[[], None], *, when_interrupted: str = "") -> None:
    """Run a script as the commands are run: what a user can cause or fix ends it with one line and an exit code."""
    try:
        Command(name=None, callback=main).main([])  # the script reads its own arguments
    except SystemExit as end:
        if when_interrupted and end.code == INTERRUPTED:
            print(when_interrupted, file=sys.stderr)
        raise
