"""Writing a check's report into a file: an HTML page that needs no network, Markdown, or JSON."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from purify_edge.bundle.report import Report, encode_report
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.content import document_of
from purify_edge.document.html import render_html
from purify_edge.document.markdown import render_markdown
from purify_edge.errors import InputError
from purify_edge.files import atomic


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # half a surrogate pair, in a name, has no UTF-8


FORMATS: Mapping[str, Callable[[Report, CheckedBundle], bytes]] = {
    ".html": lambda report, about: _encoded(render_html(document_of(report, about))),
    ".md": lambda report, about: _encoded(render_markdown(document_of(report, about))),
    ".json": lambda report, about: encode_report(report),
}
"""The suffix of a file -> its content."""


def require_writable(path: Path, *, force: bool = False) -> None:
    """Fail before anything is measured where `write_report` would fail; `force` overwrites a file.

    Raises:
        InputError: a suffix that is no format, a file or folder that exists, or no folder that can be written to.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a name that ends with {', '.join(FORMATS)}, got {path.suffix!r}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    if path.exists() and not force:
        raise InputError(f"{path} exists; --force overwrites it, or give another name")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it, or give another name")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} cannot be written to; give another name")


def write_report(path: Path, report: Report, about: CheckedBundle, *, force: bool = False) -> None:
    """Write the report in the format that the file's suffix names, whole or not at all.

    Raises:
        InputError: see `require_writable`.
    """
    require_writable(path, force=force)
    content = FORMATS[path.suffix.lower()](report, about)
    with atomic(path) as temporary:
        temporary.write_bytes(content)
