"""What mkdocs is told beside mkdocs.yml. The pages are read in the repository as well, so they link to its
files; on the site those links are text, and README is the first page. What the command line takes is a page that
only the site has."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from headstart.cli.app import build

LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
FIRST, COMMANDS, PAGES = "index.md", "commands.md", "docs/"


def on_files(files: Files, config: Any) -> Files:
    """README, as the first page; and a page of the commands, made from their own options."""
    readme = Path(config["config_file_path"]).with_name("README.md")
    files.append(File.generated(config, FIRST, content=readme.read_text(encoding="utf-8")))
    files.append(File.generated(config, COMMANDS, content=build().generate_docs(output_format="markdown")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that lead out of docs/ become their words. The others stay as they are, also those to what is not
    there, which mkdocs then refuses."""
    folder = "" if page.file.src_uri == FIRST else PAGES

    def linked(match: re.Match[str]) -> str:
        words, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        path = posixpath.normpath(folder + target)
        if path.startswith(PAGES):
            return match[0].replace(f"]({target})", f"]({path.removeprefix(PAGES)})")
        return "" if match[0].startswith("!") else words

    return LINK.sub(linked, markdown)
