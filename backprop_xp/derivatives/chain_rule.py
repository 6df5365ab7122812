"""The chain rule for derivatives of any order, as lists of terms.

A signal's derivative along some directions is known by a tuple of their numbers: ``()`` is the signal itself,
``(0, 0, 1)`` its derivative twice along direction 0 and once along 1. For z = f(t), Faà di Bruno's formula says what it
is made of:

    z_M = sum over the partitions of M into blocks B:  f^(number of blocks)(t) * product over the blocks of t_B

so z_01 = f''(t) t_0 t_1 + f'(t) t_01. A sum of second derivatives such as the Laplacian, which is known by a
``frozenset`` of directions, is carried as one signal, not one for each direction (Forward Laplacian, arXiv 2307.08214):

    z_sum = f''(t) * sum over the directions a of t_a^2  +  f'(t) t_sum

For a product z = a b, Leibniz's rule says it:

    z_M = sum over the parts A of M, with what remains of it as B:  a_A b_B
    z_sum = a_sum b + 2 * sum over the directions d of a_d b_d + a b_sum
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

#: Numbers of the directions that a signal is derived along, or those whose second derivatives are added up.
Along = tuple[int, ...] | frozenset[int]

#: No derivative of higher order is computed: the number of terms grows as Bell's numbers.
HIGHEST_ORDER = 6


class Term(NamedTuple):
    """``factor`` * f^(len(blocks))(t) * the product of t_B over ``blocks``, by their places in the stack."""

    factor: int
    blocks: tuple[int, ...]


class ProductTerm(NamedTuple):
    """``factor`` * a_first * b_second, by their places in the stack."""

    factor: int
    first: int
    second: int


class Rules(NamedTuple):
    """What is pushed through a net.

    Attributes:
        stack: what is carried, the signal itself first; every block of a derivative's terms is there before it.
        terms: of each, what it is made of behind an activation; none for the signal itself.
        order: of the highest derivative of an activation that is needed.
    """

    stack: tuple[Along, ...]
    terms: tuple[tuple[Term, ...], ...]
    order: int

    def place(self, along: Along) -> int:
        """Where this derivative stands in the stack."""
        return self.stack.index(along)

    @property
    def products(self) -> tuple[tuple[ProductTerm, ...], ...]:
        """Of each, what it is made of in a product of two signals."""
        return _products(self.stack)


def rules(wanted: Iterable[Along]) -> Rules:
    """The rules for these derivatives, with all others that they are made of."""
    return _rules(tuple(wanted))


@lru_cache(maxsize=128)
def _rules(wanted: tuple[Along, ...]) -> Rules:
    needed: set[Along] = {()}
    for along in wanted:
        if isinstance(along, frozenset):
            needed |= {along, *((a,) for a in along)}
        else:
            needed |= {tuple(sorted(part)) for k in range(len(along) + 1) for part in combinations(along, k)}
    stack = sorted(needed, key=lambda along: (isinstance(along, frozenset), len(along), sorted(along)))
    place = {along: k for k, along in enumerate(stack)}
    terms = tuple(() if along == () else tuple(_terms(along, place)) for along in stack)
    return Rules(tuple(stack), terms, max(len(term.blocks) for each in terms for term in (*each, Term(1, ()))))


def _terms(along: Along, place: dict[Along, int]) -> list[Term]:
    if isinstance(along, frozenset):
        return [Term(1, (place[(a,)],) * 2) for a in sorted(along)] + [Term(1, (place[along],))]
    counted = Counter(tuple(sorted(place[block] for block in blocks)) for blocks in _partitions(along))
    return [Term(count, blocks) for blocks, count in counted.items()]


@lru_cache(maxsize=128)
def _products(stack: tuple[Along, ...]) -> tuple[tuple[ProductTerm, ...], ...]:
    place = {along: k for k, along in enumerate(stack)}
    return tuple(tuple(_product_terms(along, place)) for along in stack)


def _product_terms(along: Along, place: dict[Along, int]) -> list[ProductTerm]:
    if isinstance(along, frozenset):
        twice = [ProductTerm(2, place[(a,)], place[(a,)]) for a in sorted(along)]
        return [ProductTerm(1, place[along], place[()]), *twice, ProductTerm(1, place[()], place[along])]
    counted: Counter[tuple[int, int]] = Counter()
    for k in range(len(along) + 1):
        for chosen in combinations(range(len(along)), k):
            rest = tuple(a for i, a in enumerate(along) if i not in chosen)
            counted[place[tuple(along[i] for i in chosen)], place[rest]] += 1
    return [ProductTerm(count, first, second) for (first, second), count in counted.items()]


def _partitions(items: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """Every partition of these items, which may be equal, into blocks, each sorted."""
    if not items:
        return [[]]
    found = []
    for k in range(len(items)):
        for chosen in combinations(range(1, len(items)), k):  # what shares a block with the first
            block = (items[0], *(items[i] for i in chosen))
            rest = tuple(items[i] for i in range(1, len(items)) if i not in chosen)
            found += [[tuple(sorted(block)), *others] for others in _partitions(rest)]
    return found
