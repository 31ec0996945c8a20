"""Notebooks as pages: they have no outputs, so their cells are all there is to show."""

import json
from pathlib import Path

SHELL = "%%sh\n"


def pages(folder: Path) -> dict[str, str]:
    """Return each notebook of a folder as a page of Markdown, by the page's name."""
    return {f"{path.stem}.md": page_of(path) for path in sorted(folder.glob("*.ipynb"))}


def page_of(notebook: Path) -> str:
    """Return a notebook's cells as Markdown, those of code in fences, with a link to the file itself."""
    cells = [_text(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook.read_text())["cells"]]
    title, *rest = cells
    return "\n\n".join([title, f"[Download this page as a notebook]({notebook.name})", *rest])


def _text(kind: str, source: str) -> str:
    if kind != "code":
        return source
    if source.startswith(SHELL):
        return f"```sh\n{source.removeprefix(SHELL)}\n```"
    return f"```python\n{source}\n```"
