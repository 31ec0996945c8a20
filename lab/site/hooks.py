"""The hooks of mkdocs: pages and files that are made when the site is built, and links to files outside of docs/."""

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.site import notebooks, reference, try_it

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[2]
LINKED = "toolkit/pairs/purify_pairs/*/evaluation/evaluation.json"
"""Files outside of docs/ that pages lead to; they are copied into the site, below `files`."""


def on_files(files: "Files", *, config: "MkDocsConfig") -> "Files":
    """Add what is made now: reference, schemas, notebooks, what `Try it` loads, and files outside of docs/."""
    from mkdocs.structure.files import File

    linked = {f"files/{path.relative_to(REPOSITORY)}": path.read_bytes() for path in REPOSITORY.glob(LINKED)}
    made = reference.pages() | notebooks.pages(REPOSITORY / "docs") | try_it.assets(REPOSITORY / "build") | linked
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, *, page: "Page", **_: Any) -> str:
    """Point links to files outside of docs/ at their copies in the site, and links to notebooks at their pages."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        if path.startswith("docs/"):
            return link[0]
        return f"]({posixpath.relpath(f'files/{path}', folder or '.')})"

    own = posixpath.basename(page.file.src_uri).removesuffix(".md")
    markdown = re.sub(rf"\]\((?!{re.escape(own)}\.)([^)#:]+)\.ipynb\)", r"](\1.md)", markdown)
    return re.sub(r"\]\((\.\./[^)#:]+)\)", inside, markdown)
