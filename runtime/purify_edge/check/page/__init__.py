"""The report as a page for people: one HTML file that needs no network, or Markdown."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from purify_edge.bundle.report import Report, encode_report
from purify_edge.check.page.content import document_of
from purify_edge.check.page.html import html_of
from purify_edge.check.page.markdown import markdown_of
from purify_edge.check.page.subject import Subject
from purify_edge.check.page.written import is_report
from purify_edge.errors import InputError
from purify_edge.files import atomic


def render_html(report: Report, subject: Subject) -> str:
    """The report as one HTML file: no script, and nothing is loaded from anywhere."""
    return html_of(document_of(report, subject))


def render_markdown(report: Report, subject: Subject) -> str:
    """The same as Markdown, without pictures; what the plots show stands in its tables."""
    return markdown_of(document_of(report, subject))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # half a surrogate pair, in a name, has no UTF-8


FORMATS: Mapping[str, Callable[[Report, Subject], bytes]] = {
    ".html": lambda report, subject: _encoded(render_html(report, subject)),
    ".md": lambda report, subject: _encoded(render_markdown(report, subject)),
    ".json": lambda report, subject: encode_report(report),
}
"""Suffix of a file -> what it holds."""


def require_writable(path: Path) -> None:
    """Fail before anything is measured where `write_report` would fail.

    Raises:
        InputError: a suffix that is no format, a folder of this name, a file that is no report, or no folder that can
            be written to.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a name that ends with {', '.join(FORMATS)}, got {path.suffix!r}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    if path.exists() and not is_report(path):
        raise InputError(f"{path} exists and is not a report of purify-check; give another name, or move it away")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it, or give another name")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} cannot be written to; give another name")


def write_report(path: Path, report: Report, subject: Subject) -> None:
    """Write the report in the format that the file's suffix names, whole or not at all.

    Raises:
        InputError: see `require_writable`.
    """
    require_writable(path)
    content = FORMATS[path.suffix.lower()](report, subject)
    with atomic(path) as temporary:
        temporary.write_bytes(content)
