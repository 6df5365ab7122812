"""Straight-line code over buffers, and where in memory these lie: what is no longer read makes room for what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """A line of code, the buffers it reads and writes, and which of the former the latter may take the place of."""

    text: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    over: dict[int, tuple[int, ...]]


class Tape:
    """Instructions in order, over numbered buffers, each some features a sample; number 3 is ``b3`` in the text."""

    def __init__(self, padded: Callable[[int], int]) -> None:
        """``padded(features)`` is how many numbers a sample's features take in a buffer."""
        self.instructions: list[Instruction] = []
        self.sizes: list[int] = []
        self._padded = padded

    def buffer(self, features: int) -> int:
        """A new buffer."""
        self.sizes.append(self._padded(features))
        return len(self.sizes) - 1

    def emit(
        self,
        text: str,
        reads: Iterable[int],
        writes: Iterable[int],
        over: dict[int, tuple[int, ...]] | None = None,
    ) -> None:
        """Append an instruction. A buffer that is added to is read as well.

        Args:
            over: buffer that is first written here -> buffers in whose place it may stand if this is their last use.
        """
        self.instructions.append(Instruction(text, tuple(reads), tuple(writes), over or {}))

    def placed(self) -> tuple[dict[int, int], int]:
        """Where buffers that are used begin, and how much all take, in features: first fit, in instructions' order."""
        last: dict[int, int] = {}
        for time, instruction in enumerate(self.instructions):
            last |= dict.fromkeys((*instruction.reads, *instruction.writes), time)
        places: dict[int, int] = {}
        live: set[int] = set()
        total = 0
        for time, instruction in enumerate(self.instructions):
            for new in instruction.writes:
                if new in places:
                    continue
                dying = [
                    old for old in instruction.over.get(new, ())
                    if old in live and last[old] == time and self.sizes[old] == self.sizes[new]
                ]  # fmt: skip
                if dying:
                    places[new] = places[dying[0]]
                    live.discard(dying[0])
                else:
                    places[new] = self._gap(new, places, live)
                live.add(new)
                total = max(total, places[new] + self.sizes[new])
            live -= {b for b in live if last[b] == time}
        return {b: places[b] for b in sorted(places)}, total

    def _gap(self, new: int, places: dict[int, int], live: set[int]) -> int:
        at = 0
        for start, size in sorted((places[b], self.sizes[b]) for b in live):
            if start - at >= self.sizes[new]:
                break
            at = max(at, start + size)
        return at
