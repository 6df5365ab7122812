"""Throughput cases, and the suites that run them; ``compare`` is for one's own net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backprop_xp import later

if TYPE_CHECKING:
    from backprop_xp.bench import own
else:
    own = later.Module("backprop_xp.bench.own")


def compare(net: Any, x: Any, y: Any = None, **options: Any) -> Any:
    """:func:`backprop_xp.bench.own.compare`, imported when it is called."""
    return own.compare(net, x, y, **options)
