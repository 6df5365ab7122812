"""Machines for tests of the benchmark: what others do on them is written down beforehand, and looking takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backprop_xp.bench.quiet import Look, Machine, Spell

OTHERS = "others took 1.80 of 2 processors"


@dataclass(frozen=True)
class Scripted(Machine):
    """Spell by spell, whether others compute; after the last one, as in ``then``."""

    threads: int = 1
    busy: Sequence[bool] = ()
    then: bool = False
    seen: list[Spell] = field(default_factory=list)

    def look(self) -> Look:
        return Look(0.0, 0.0, 0.0, 0.0, 1.0)

    def between(self, before: Look, after: Look) -> Spell:
        is_busy = self.busy[len(self.seen)] if len(self.seen) < len(self.busy) else self.then
        self.seen.append(Spell(1.8 * is_busy, 0.0, 1.0, OTHERS * is_busy))
        return self.seen[-1]


QUIET, BUSY = Scripted(), Scripted(then=True)
