"""C++/CUDA headers: one source for the CPU and the GPU. README.md beside it says what stands where."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent


@lru_cache(maxsize=32)
def source(name: str) -> str:
    """The text of a header with the headers of this folder that it includes written out, each once.

    One text is what a cache of compiled code can hash: an edited header never meets code compiled from an older.
    """
    return _expand(name, set())


def without_headers(text: str) -> str:
    """A text that begins with :func:`source` of a header, with one ``#include`` line in its place."""
    names = [path.name for path in FOLDER.glob("*.h") if text.startswith(source(path.name))]
    if not names:
        return text
    longest = max(names, key=lambda name: len(source(name)))
    return f'#include "{longest}"\n' + text[len(source(longest)) :].lstrip("\n")


def _expand(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
    return re.sub(r'^#include "([\w.]+)"$', lambda match: _expand(match[1], seen), text, flags=re.MULTILINE)
