"""How many features each value of a graph has, told from those of a few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def features_of(
    alike: Sequence[Sequence[str]], sums: Mapping[str, Sequence[str]], told: Mapping[str, int]
) -> dict[str, int]:
    """The features of every value of which they can be told.

    Args:
        alike: groups of values that have equally many.
        sums: concatenations, and what they concatenate.
        told: those that are known. Where some contradict others, one of them is taken.
    """
    leaders: dict[str, str] = {}

    def leader(name: str) -> str:
        while (other := leaders.setdefault(name, name)) != name:
            name = other
        return name

    for first, *others in alike:
        for other in others:
            leaders[leader(other)] = leader(first)
    for name, parts in sums.items():
        for one in (name, *parts, *told):
            leader(one)
    found = {leader(name): features for name, features in told.items()}
    known = 0
    while known < len(found):
        known = len(found)
        for name, parts in sums.items():
            counts = Counter(map(leader, parts))
            missing = [one for one in counts if one not in found]
            rest = found.get(leader(name), 0) - sum(found.get(one, 0) * times for one, times in counts.items())
            if not missing:
                found.setdefault(leader(name), -rest)
            elif len(missing) == 1 and rest > 0 and rest % counts[missing[0]] == 0:
                found[missing[0]] = rest // counts[missing[0]]
    return {name: found[leader(name)] for name in [*leaders] if leader(name) in found}
