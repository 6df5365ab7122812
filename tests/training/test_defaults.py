"""`fit` says once what to set for a net whose weights are the article's though nobody asked for them."""

import copy
import pickle
import warnings

import numpy as np
import pytest

from backprop_xp import Graph, Net

X = np.random.default_rng(0).standard_normal((6, 5))
PART = "drawn from N\\(0, 1\\)"


def graph(**options):
    g = Graph()
    x = g.input(5)
    return g.net(g.linear(x, 2), rng=0, backend="numpy", **options)


def chain(**options):
    return Net((5, 4, 2), rng=0, backend="numpy", **options)


def is_silent(net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.fit(X)


@pytest.mark.parametrize("make", [chain, graph])
def test_it_is_said_once_and_where_fit_is_called(make):
    net = make()
    with pytest.warns(UserWarning, match=PART) as said:
        net.fit(X)
    assert [warning.filename for warning in said] == [__file__]
    assert 'reduction="mean"' in str(said[0].message)
    is_silent(net)


@pytest.mark.parametrize("make", [chain, graph])
@pytest.mark.parametrize("init", ["normal", "glorot_uniform", lambda rng, shape: np.ones(shape)])
def test_who_chose_is_not_told(make, init):
    is_silent(make(init=init))


def test_what_is_set_is_not_recommended():
    with pytest.warns(UserWarning, match=PART) as said:
        chain(reduction="mean").fit(X)
    assert "reduction" not in str(said[0].message)


def test_the_article_is_left_alone():
    is_silent(Net(rng=0))
    assert np.array_equal(Net(rng=0).weights[0].data, Net((5, 10, 4, 12), rng=0, init="normal").weights[0].data)
    first = Net(rng=np.random.RandomState(0)).weights[0].data
    assert np.array_equal(first, np.random.RandomState(0).standard_normal((10, 5)))


def test_weights_that_come_from_elsewhere_are_not_those_drawn(tmp_path):
    chain().save(tmp_path / "net.safetensors")
    is_silent(Net.load(tmp_path / "net.safetensors"))
    graph().save(tmp_path / "graph.safetensors")
    is_silent(Net.load(tmp_path / "graph.safetensors"))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_as_the_net(again):
    with pytest.warns(UserWarning, match=PART):
        again(chain()).fit(X)


def test_a_call_that_is_refused_says_nothing():
    net = chain()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="epochs"):
            net.fit(X, epochs=-1)
    with pytest.warns(UserWarning, match=PART):
        net.fit(X)
