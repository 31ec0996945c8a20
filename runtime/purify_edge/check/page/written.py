"""Whether a file is a report of ours, which a new one may take the place of; known by what each format begins with."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from purify_edge.bundle.report import Report
from purify_edge.check.page.html import POLICY

HTML = re.compile(
    rf'<!DOCTYPE html>\s<html lang="en"><head><meta charset="utf-8">'
    rf'<meta http-equiv="Content-Security-Policy" content="{re.escape(POLICY)}">.*?<title>(Passed|Failed): ',
    re.DOTALL,
)
MARKDOWN = re.compile(
    r"# [^\n]*\n\n\*\*[✓✗] (Passed|Failed)\.\*\* .*^## What was not checked$.*^## Environment$",
    re.DOTALL | re.MULTILINE,
)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=Report)
    except (msgspec.DecodeError, RecursionError):  # ValidationError is a DecodeError
        return False
    return True


TESTS: Mapping[str, Callable[[str], object]] = {".html": HTML.match, ".md": MARKDOWN.match, ".json": _is_json}
"""Suffix -> whether a text is a report in that format."""


def is_report(path: Path) -> bool:
    """Whether a file holds a report in the format that its suffix names."""
    try:
        text = path.read_text("utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return False
    return bool(TESTS[path.suffix.lower()](text))
