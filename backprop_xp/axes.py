"""Axes of matplotlib: those that were given, or new ones; and names as they are drawn."""

from __future__ import annotations

from typing import Any

LONGEST = 16  # characters of a name
TAIL = 5  # characters of its end, which tells "street 1" from "street 2"


def new(what: str, columns: int = 1) -> Any:
    """The axes of a new figure, an array of them, side by side, where ``columns`` is not 1.

    Raises:
        ImportError: matplotlib is not installed; ``what`` says what needs it.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(f"drawing {what} needs matplotlib: pip install 'backprop-xp[data]'") from None
    return pyplot.subplots(1, columns, figsize=(6.4 * columns, 4.8), layout="constrained")[1]


def short(name: str, most: int = LONGEST) -> str:
    """A name as it is drawn: its middle left out where it is long, and nothing in it a formula."""
    cut = name if len(name) <= most else f"{name[: most - TAIL - 3]}...{name[-TAIL:]}"
    return cut.replace("$", r"\$").replace("\n", " ")
