"""Names of derivatives: with outputs "u v" and inputs "x t", ``u_xxt`` is u derived twice in x and once in t."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .chain_rule import HIGHEST_ORDER, Along


class Named(NamedTuple):
    """One output's derivative: its number, and along which inputs it is derived, as chain_rule.py says that."""

    output: int
    along: Along


class Names(NamedTuple):
    """What a net's inputs and outputs are called."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def find(self, name: str) -> Named | None:
        """What this name says, None if it is no output's and no derivative's.

        Raises:
            ValueError: it is a derivative of an output, in something that is no input or of too high an order.
        """
        output, underscore, derived = name.partition("_")
        if output not in self.outputs or (underscore and not derived):
            return None
        any_input = "|".join(re.escape(each) for each in sorted(self.inputs, key=len, reverse=True))
        if not re.fullmatch(f"({any_input})*", derived):
            raise ValueError(f"{name!r} is no derivative of {output!r} in the inputs {' '.join(self.inputs)}")
        along = tuple(sorted(self.inputs.index(each) for each in re.findall(any_input, derived)))
        if len(along) > HIGHEST_ORDER:
            raise ValueError(f"{name!r} is of order {len(along)}; derivatives go up to order {HIGHEST_ORDER}")
        return Named(self.outputs.index(output), along)


def names(inputs: str | Sequence[str] | None, outputs: str | Sequence[str] | None, sizes: tuple[int, int]) -> Names:
    """The names of a net of these (inputs, outputs): by default x, or x0 x1 ..., and u, or u0 u1 ..."""
    return Names(_split("inputs", inputs, "x", sizes[0]), _split("outputs", outputs, "u", sizes[1]))


def _split(what: str, given: str | Sequence[str] | None, default: str, count: int) -> tuple[str, ...]:
    if given is None:
        return (default,) if count == 1 else tuple(f"{default}{k}" for k in range(count))
    found = tuple(given.split() if isinstance(given, str) else given)
    if len(found) != count:
        raise ValueError(f"{what} must name the net's {count} {what}, got {len(found)}: {' '.join(map(str, found))}")
    return checked(what, found)


def checked(what: str, given: tuple[str, ...]) -> tuple[str, ...]:
    """These names, if each is one and none stands twice."""
    for name in given:
        if not isinstance(name, str) or not name.isidentifier() or "_" in name:
            raise ValueError(f"{what}: {name!r} is no name; a name is letters and digits, without an underscore")
    if len(set(given)) < len(given):
        raise ValueError(f"{what}: {' '.join(given)} holds a name twice")
    return given
