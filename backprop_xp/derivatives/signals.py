"""Arithmetic with a signal and its derivatives together: a stack (signals, samples, features), ordered by Rules.

Forward, a function of one signal follows Faà di Bruno's formula, and a product of two Leibniz's rule (chain_rule.py).
Backward, from the gradients G_M of a loss in every z_M, each term gives each of its factors its share. Of z = f(t)

    grad t   += G_M * factor * f^(m+1)(t) * t_B1 ... t_Bm
    grad t_B += G_M * factor * f^(m)(t) * the other blocks

and of a product z = a b

    grad a_A += G_M * factor * b_B    for each term factor * a_A b_B of z_M
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..backend import Array, module_of
from .chain_rule import Rules


def through(f: Sequence[Array], t: Array, rules: Rules) -> Array:
    """The stack of z = f(t), from the stack of t and f(t), f'(t), ... up to ``rules.order``."""
    z = module_of(t).empty_like(t)
    z[0] = f[0]
    for k, terms in enumerate(rules.terms[1:], start=1):
        z[k] = sum(term.factor * f[len(term.blocks)] * prod(t[b] for b in term.blocks) for term in terms)
    return z


def through_below(f: Sequence[Array], t: Array, grad_z: Array, rules: Rules) -> Array:
    """The gradient in the stack of t, from that in the stack of z = f(t) and f(t), ... up to ``rules.order`` + 1."""
    grad_t = module_of(t).zeros_like(t)
    grad_t[0] = grad_z[0] * f[1]
    for k, terms in enumerate(rules.terms[1:], start=1):
        for factor, blocks in terms:
            grad_t[0] += factor * grad_z[k] * f[len(blocks) + 1] * prod(t[b] for b in blocks)
            for i, block in enumerate(blocks):
                others = prod(t[b] for b in blocks[:i] + blocks[i + 1 :])
                grad_t[block] += factor * grad_z[k] * f[len(blocks)] * others
    return grad_t


def product(a: Array, b: Array, rules: Rules) -> Array:
    """The stack of a b, element by element; either may have one feature, for all of the other's."""
    return module_of(a).stack([sum(c * a[i] * b[j] for c, i, j in terms) for terms in rules.products])


def product_below(grad: Array, b: Array, rules: Rules) -> Array:
    """The gradient in the stack of a, of b's shape or the gradient's, from that in the stack of a b."""
    found = module_of(grad).zeros_like(grad)
    for k, terms in enumerate(rules.products):
        for c, i, j in terms:
            found[i] += c * grad[k] * b[j]
    return found
