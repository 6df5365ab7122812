"""The fused engine on CuPy."""

from __future__ import annotations

from .call import Call


def refuses(call: Call) -> str:
    """It has no kernel so far."""
    return "it runs on the CPU"
