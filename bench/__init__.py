"""Throughput cases, and the suites that run them; ``compare`` is for one's own net."""

from __future__ import annotations

from typing import Any


def compare(net: Any, x: Any, y: Any = None, **options: Any) -> Any:
    """:func:`backprop_xp.bench.own.compare`, imported when it is called."""
    from backprop_xp.bench.own import compare as compare_own

    return compare_own(net, x, y, **options)
