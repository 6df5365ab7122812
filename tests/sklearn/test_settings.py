"""Parameters are checked where they are first read, in ``fit``."""

import numpy as np
import pytest
from tables import blobs

from backprop_xp import Tanh
from backprop_xp.sklearn import BackpropClassifier
from backprop_xp.sklearn.settings import Settings, activations, new_optimiser, shifted, widths
from backprop_xp.training import LBFGS, SGD, Adam
from backprop_xp.training.schedules import Cosine


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("hidden_layer_sizes", (5, 0), "every width in hidden_layer_sizes must be an integer from 1"),
        ("hidden_layer_sizes", -1, "every width in hidden_layer_sizes must be an integer from 1"),
        ("hidden_layer_sizes", "50", "every width in hidden_layer_sizes must be an integer"),
        ("hidden_layer_sizes", 5.5, "every width in hidden_layer_sizes must be an integer"),
        ("activation", "rele", "unknown activation 'rele'; did you mean 'relu'"),
        ("activation", ("relu", "tanh"), "one for each of the 1, got 2"),
        ("activation", Tanh, "an activation is a name or an object"),
        ("loss", "mse", "loss must be 'log_loss', softmax_cross_entropy or bce_with_logits"),
        ("loss", "bce_with_logits", "the loss bce_with_logits is not for one of 3 classes"),
        ("loss", "log_los", "unknown loss 'log_los'"),
        ("optimiser", "adan", "unknown optimiser 'adan'; did you mean 'adam'"),
        ("optimiser", Adam, "an optimiser is a name or an object"),
        ("schedule", "cosin", "unknown schedule 'cosin'"),
        ("alpha", -1, "alpha must be a number from 0 on, got -1"),
        ("alpha", np.nan, "alpha must be a number from 0 on, got nan"),
        ("batch_size", 0, "batch_size must be an integer from 1 on, got 0"),
        ("batch_size", "all", "batch_size must be an integer from 1 on, got 'all'"),
        ("learning_rate_init", 0, "learning_rate_init must be a number above 0, got 0"),
        ("max_iter", 0, "max_iter must be an integer from 1 on, got 0"),
        ("shuffle", "yes", "shuffle must be True or False, got 'yes'"),
        ("tol", -1e-3, "tol must be a number from 0 on, got -0.001"),
        ("n_iter_no_change", 0, "n_iter_no_change must be an integer from 1 on, got 0"),
        ("early_stopping", "no", "early_stopping must be True or False, got 'no'"),
        ("validation_fraction", 1.0, "validation_fraction must be a number between 0 and 1, got 1.0"),
        ("warm_start", None, "warm_start must be True or False, got None"),
        ("bias", 2, "bias must be True or False, got 2"),
        ("init", "glorot", "unknown initialiser 'glorot'"),
        ("dtype", "float16", "dtype must be 'float32' or 'float64', got 'float16'"),
        ("backend", "cuda", "unknown backend 'cuda'"),
        ("threads", 0, "0"),
        ("random_state", "x", "cannot be used to seed"),
    ],
)
def test_a_wrong_one_is_named(parameter, value, message):
    model = BackpropClassifier().set_params(**{parameter: value})
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(*blobs())
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.parametrize("given", [7, np.int64(7), (7,), [7], np.array([7])])
def test_one_width_or_several(given):
    assert widths(given) == (7,)
    assert widths(()) == ()


def test_activations_are_copies():
    mine = Tanh()
    found = activations((mine, "relu"), 2)
    assert type(found[0]) is Tanh and found[0] is not mine and found[1].name == "relu"
    assert [f.name for f in activations("logistic", 2)] == ["sigmoid", "sigmoid"]


def test_an_optimiser_is_copied_without_what_it_did():
    mine = SGD(lr=0.5, momentum=0.9)
    mine.count, mine.state = 3, {"buffer": np.ones(3)}
    fresh = new_optimiser(mine, None)
    assert fresh is not mine and (fresh.lr, fresh.momentum, fresh.count, fresh.state) == (0.5, 0.9, 0, {})
    assert new_optimiser(mine, 0.1).lr == 0.1 and mine.lr == 0.5 and mine.count == 3
    assert new_optimiser("adam", None).lr == 0.001


def test_a_schedule_goes_on():
    cosine = Cosine(10)
    assert [shifted(cosine, 3)(step) for step in range(4)] == [cosine(step) for step in range(3, 7)]
    assert shifted(None, 3) is None
    with pytest.raises(ValueError, match=r"give schedule=Cosine\(steps\)"):
        shifted("cosine", 0)


def test_the_penalty_is_divided_by_the_weight_of_a_batch():
    settings = Settings.of(BackpropClassifier(alpha=0.5, batch_size=10))
    assert settings.penalty(100, 100.0, 10) == pytest.approx(0.05)
    assert settings.penalty(100, 200.0, 10) == pytest.approx(0.025)
    assert settings.penalty(5, 5.0, 5) == pytest.approx(0.1)


def test_samples_of_a_batch():
    usual, own = Settings.of(BackpropClassifier()), Settings.of(BackpropClassifier(batch_size=10))
    assert [usual.batch(1000, Adam()), usual.batch(7, Adam()), usual.batch(1000, LBFGS())] == [200, 7, 1000]
    assert [own.batch(1000, Adam()), own.batch(7, Adam()), own.batch(1000, LBFGS())] == [10, 7, 10]
