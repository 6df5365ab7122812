"""Faà di Bruno's formula: terms of known derivatives, and Bell's numbers."""

import pytest

from backprop_xp.derivatives.chain_rule import rules


def written(along):
    """The terms as {blocks: factor}, blocks by what they are derived along."""
    rule = rules([along])
    return {tuple(rule.stack[b] for b in term.blocks): term.factor for term in rule.terms[rule.place(along)]}


def test_mixed_derivatives():
    assert written((0, 1)) == {((0,), (1,)): 1, ((0, 1),): 1}
    assert written((0, 0, 0)) == {((0,), (0,), (0,)): 1, ((0,), (0, 0)): 3, ((0, 0, 0),): 1}
    assert written((0, 0, 1)) == {
        ((0,), (0,), (1,)): 1, ((0,), (0, 1)): 2, ((1,), (0, 0)): 1, ((0, 0, 1),): 1,
    }  # fmt: skip


@pytest.mark.parametrize(("order", "bell"), [(1, 1), (2, 2), (3, 5), (4, 15), (5, 52), (6, 203)])
def test_as_many_terms_as_partitions(order, bell):
    assert sum(written((0,) * order).values()) == sum(written(tuple(range(order))).values()) == bell


def test_a_sum_of_second_derivatives_is_one_signal():
    rule = rules([frozenset(range(5))])
    assert len(rule.stack) == 1 + 5 + 1 and rule.order == 2
    assert written(frozenset({0, 1})) == {((0,), (0,)): 1, ((1,), (1,)): 1, (frozenset({0, 1}),): 1}


def test_what_is_carried_is_what_is_needed():
    assert rules([(0, 0, 1)]).stack == ((), (0,), (1,), (0, 0), (0, 1), (0, 0, 1))
    assert rules([()]).order == 0 and rules([()]).stack == ((),)
