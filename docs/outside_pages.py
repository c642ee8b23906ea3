"""Adds the pages that are not in docs/ to the site that `make docs` builds, and points links at their places there."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
_LINK = re.compile(r"""(\]\(|src(?:set)?=")(?![a-z]+:|#)([^)"#\s]+)""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/, under the same names."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page, which are right in the repository, at the same pages of the site."""
    del config, files
    here = PurePosixPath(page.file.src_uri)
    folder = here.parent if str(here) in OUTSIDE else "docs" / here.parent

    def moved(link: re.Match[str]) -> str:
        target = normpath(folder / link[2])
        return link[1] + relpath(target.removeprefix("docs/"), here.parent)

    return _LINK.sub(moved, markdown)
