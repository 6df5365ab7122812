"""A pass over tiles that waits for sums over the whole batch: cut into launches, one after another.

What a launch leaves of a tile to later ones is kept in the device's memory, feature by feature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .buffers import Instruction, Tape
from .pieces import Added


@dataclass(frozen=True)
class Stage:
    """What one launch does with a tile.

    Attributes:
        places: where in a tile's memory each of its buffers begins; features: how many all take.
        added: which of the pass's sums it adds up.
    """

    instructions: Sequence[Instruction]
    places: Mapping[int, int]
    features: int
    added: Added


def cut(tape: Tape, ends: Sequence[int], added: Sequence[Added]) -> tuple[list[Stage], int]:
    """The launches of a pass, and how many features of every sample are kept between them.

    Args:
        ends: behind how many instructions each launch ends.
        added: which sums each adds up.
    """
    parts = [tape.instructions[start:end] for start, end in zip([0, *ends], ends)]
    inputs = {i.writes[0]: i for i in tape.instructions if i.writes and not i.reads}  # brought again, not kept
    needed = _needed(parts)
    kept = _kept(parts, needed, inputs.keys())
    between = Tape(lambda features: features)
    between.sizes = tape.sizes
    for needs, keeps in zip(needed, kept):
        between.emit("", [b for b in needs if b not in inputs], keeps)
    slots, features = between.placed()
    stages = []
    for part, needs, keeps, sums in zip(parts, needed, kept, added):
        own = Tape(lambda features: features)
        own.sizes = tape.sizes
        own.instructions = [
            *(inputs[b] if b in inputs else _moved("recall", b, tape.sizes[b], slots[b], [], [b]) for b in needs),
            *part,
            *(_moved("keep", b, tape.sizes[b], slots[b], [b], []) for b in keeps),
        ]
        stages.append(Stage(own.instructions, *own.placed(), sums))
    return stages, features


def _needed(parts: Sequence[Sequence[Instruction]]) -> list[list[int]]:
    """The buffers of each part that it reads as earlier ones left them."""
    found: list[list[int]] = []
    before: set[int] = set()
    for part in parts:
        needs: dict[int, None] = {}
        written: set[int] = set()
        for instruction in part:
            needs |= dict.fromkeys(b for b in instruction.reads if b in before - written)
            written |= {*instruction.writes}
        found.append([*needs])
        before |= written
    return found


def _kept(
    parts: Sequence[Sequence[Instruction]], needed: Sequence[Sequence[int]], inputs: Collection[int]
) -> list[list[int]]:
    """The buffers of each part that later ones need, as it leaves them."""
    kept: list[list[int]] = []
    later: set[int] = set()
    for part, needs in zip(reversed(parts), reversed(needed)):
        written = {b for instruction in part for b in instruction.writes}
        kept.append(sorted((written & later) - {*inputs}))
        later = (later - written) | {*needs}
    return kept[::-1]


def _moved(
    what: str, buffer: int, features: int, slot: int, reads: Sequence[int], writes: Sequence[int]
) -> Instruction:
    call = f"args, {features}, {slot}, tile.first, tile.valid, b{buffer}"
    return Instruction(f"bpx::graph_{what}<R, S>({call})", tuple(reads), tuple(writes), {})
