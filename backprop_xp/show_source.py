"""The code that a net gets: BACKPROP_XP_SHOW_SOURCE=1 prints every generated kernel when a process first uses it."""

from __future__ import annotations

import sys

from .environment import SHOW_SOURCE
from .kernels import without_headers


def show(text: str, what: str) -> None:
    """Print C++ or CUDA source to stderr, if the environment asks for it.

    The headers of kernels/ stand there as one ``#include`` line: the text compiles as it is printed, with the folder
    kernels/ as an include path.

    Args:
        text: a whole translation unit, as the compiler gets it.
        what: which one, for the comment in front of it.
    """
    if SHOW_SOURCE.read():
        print(f"// backprop_xp: {what}\n{without_headers(text)}", file=sys.stderr, flush=True)
