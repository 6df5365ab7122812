"""The site's navigation, of whatever pages there are, and pages made of files beside docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

#: Pages that come first, in this order; others follow by name.
FIRST = (
    "index",
    "teaching",
    "mathematics",
    "engines",
    "gpu",
    "training",
    "tables",
    "sklearn",
    "pytorch",
    "derivatives",
    "files",
)
#: Folders, in this order, and what they are called.
FOLDERS = {"how-to": "How to", "reference": "Reference", "developer": "For developers"}
#: Pages made of files of the repository.
OTHERS = {
    "benchmark.md": "bench/README.md",
    "changelog.md": "CHANGELOG.md",
    "developer/contributing.md": "CONTRIBUTING.md",
}


def on_config(config: Any) -> Any:
    """Write the navigation down."""
    docs = Path(config.docs_dir)
    pages = sorted({path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} | OTHERS.keys(), key=_place)
    folders = sorted({page.partition("/")[0] for page in pages if "/" in page}, key=_folder)
    within = {folder: [page for page in pages if page.startswith(f"{folder}/")] for folder in folders}
    config.nav = [page for page in pages if "/" not in page]
    config.nav += [{FOLDERS.get(folder, folder.capitalize()): within[folder]} for folder in folders]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of other files."""
    root = Path(config.config_file_path).parent
    for page, source in OTHERS.items():
        files.append(File.generated(config, page, content=(root / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository become links between pages."""
    here = page.file.src_uri
    source = OTHERS.get(here, f"docs/{here}")
    pages = {file: other for other, file in OTHERS.items()}

    def moved(found: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        target = pages.get(file, file.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(here) or '.')}"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", moved, markdown)


def _place(page: str) -> tuple[int, str]:
    name = page.removesuffix(".md")
    return (FIRST.index(name) if name in FIRST else len(FIRST) + (page in OTHERS), name)


def _folder(name: str) -> tuple[int, str]:
    return ([*FOLDERS].index(name) if name in FOLDERS else len(FOLDERS), name)
