"""Hooks of the documentation site (``mkdocs.yml``): pages made of files outside ``docs/``, and links to such files.

README is the home page and CHANGELOG a page, so that neither is written twice. A link to a file that the site does not
have leads to the repository. The classroom is part of the site, and links to its lessons open them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from backpressure.dashboards.classroom import standalone

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
LESSON = re.compile(r"\]\((?:\.\./)?classroom\.md#lab-(\d+)\)")
SIMULATOR = "simulator/index.html"
GENERATED = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the version in the header and in the title of every page."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "backpressure" / "version.py").read_text("utf-8"))
    assert found is not None
    config.site_name = f"{config.site_name} {found[1]}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files of the project."""
    for page, source in GENERATED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    files.append(File.generated(config, SIMULATOR, content=standalone()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead every relative link to the page of the site, or else to the repository."""
    source = GENERATED.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        for generated, original in GENERATED.items():
            if target == original:
                return relative(f"docs/{generated}")
        if link[1] == relative(f"docs/{SIMULATOR}"):
            return link[1]
        inside = target.removeprefix("docs/")
        if target.startswith("docs/") and files.get_file_from_path(inside) is not None:
            return relative(target)
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{target}"

    def relative(target: str) -> str:
        return posixpath.relpath(target, posixpath.dirname(f"docs/{page.file.src_uri}"))

    return LINK.sub(lead, LESSON.sub(rf"]({relative(f'docs/{SIMULATOR}')}#lesson=\1)", markdown))
