"""Products of stacks, against products of polynomials; and that gradients are the transposed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp.derivatives.chain_rule import rules
from backprop_xp.derivatives.signals import product, product_below

ALONG = st.one_of(
    st.lists(st.integers(0, 2), max_size=4).map(tuple), st.frozensets(st.integers(0, 2), min_size=1, max_size=3)
)


def exponentials(slopes, rule):
    """The stack of exp(s . x) at 0 for slopes (3, features): every derivative is a product of slopes."""
    values = [
        sum(slopes[a] ** 2 for a in along) if isinstance(along, frozenset) else np.prod(slopes[list(along)], axis=0)
        for along in rule.stack
    ]
    return np.stack(values)[:, None]


@settings(deadline=None)
@given(wanted=st.lists(ALONG, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_of_exponentials_slopes_are_added(wanted, seed):
    rule, (s, r) = rules(wanted), np.random.default_rng(seed).normal(size=(2, 3, 5))
    a, b, both = (exponentials(each, rule) for each in (s, r, s + r))
    np.testing.assert_allclose(product(a, b, rule), both, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(product(b[..., :1], a, rule), product(a, np.repeat(b[..., :1], 5, -1), rule))


@settings(deadline=None)
@given(wanted=st.lists(ALONG, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_a_gradient_is_the_transposed_product(wanted, seed):
    rule, random = rules(wanted), np.random.default_rng(seed)
    a, b, grad = random.normal(size=(3, len(rule.stack), 2, 4))
    forward, backward = (grad * product(a, b, rule)).sum(), (a * product_below(grad, b, rule)).sum()
    np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-9)
