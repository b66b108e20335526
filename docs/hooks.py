"""What mkdocs is told beside mkdocs.yml. The pages are read in the repository as well, so they link to its
files; on the site those links are text, and README is the first page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
FIRST = "index.md"


def on_files(files: Files, config: Any) -> Files:
    """README, as the first page."""
    root = Path(config["config_file_path"]).parent
    text = (root / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, FIRST, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to what is no page become their words."""
    folder = Path(page.file.src_uri).parent

    def linked(match: re.Match[str]) -> str:
        words, target = match.groups()
        name = target.partition("#")[0]
        inside = not name or "://" in target or files.get_file_from_path((folder / name).as_posix()) is not None
        return match[0] if inside else "" if match[0].startswith("!") else words

    return LINK.sub(linked, markdown)
