"""The regressor: one target and several, losses."""

import numpy as np
import pytest
from tables import line

from backprop_xp import ElementwiseLoss, Huber
from backprop_xp.sklearn import BackpropRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FAST = {"hidden_layer_sizes": (20,), "learning_rate_init": 0.02, "random_state": 0, "max_iter": 400}


@pytest.mark.parametrize("outputs", [0, 1, 3])
def test_one_target_or_several(outputs):
    x, y = line(outputs=outputs)
    model = BackpropRegressor(**FAST)
    if outputs == 1:
        with pytest.warns(UserWarning, match="column-vector y"):
            model.fit(x, y)
    else:
        model.fit(x, y)
    assert model.predict(x).shape == ((80, 3) if outputs == 3 else (80,))
    assert model.score(x, y) > 0.98 and model.n_outputs_ == max(1, outputs) and model.out_activation_ == "identity"


@pytest.mark.parametrize("loss", ["squared_error", "mse", "mae", "huber", Huber(delta=0.5), "half_squared_error"])
def test_any_loss_of_amounts(loss):
    x, y = line()
    assert BackpropRegressor(**FAST, loss=loss).fit(x, y).score(x, y) > 0.95


def test_a_loss_of_your_own():
    x, y = line()
    pinball = ElementwiseLoss("pinball", "maximum(0.9 * (y - z), 0.1 * (z - y))")
    noisy = y + np.random.default_rng(0).normal(size=len(y))
    said = BackpropRegressor(**FAST | {"hidden_layer_sizes": ()}, loss=pinball).fit(x, noisy).predict(x)
    assert 0.8 < (noisy < said).mean() < 1.0


@pytest.mark.parametrize("loss", ["half_sum_sq", "softmax_cross_entropy", "squared_eror"])
def test_other_losses_are_refused(loss):
    with pytest.raises(ValueError, match="loss"):
        BackpropRegressor(loss=loss).fit(*line())


class TestPoisson:
    def data(self):
        random = np.random.default_rng(0)
        x = np.linspace(0, 1, 200)[:, None]
        return x, random.poisson(np.exp(x[:, 0] + 1))

    def test_without_hidden_layers_is_a_generalised_linear_model(self):
        from sklearn.linear_model import PoissonRegressor

        x, y = self.data()
        glm = PoissonRegressor(alpha=0, tol=1e-7).fit(x, y)
        options = {"alpha": 0, "learning_rate_init": 0.05, "max_iter": 1000, "n_iter_no_change": np.inf}
        model = BackpropRegressor((), loss="poisson", random_state=0, **options).fit(x, y)
        np.testing.assert_allclose(model.predict(x), glm.predict(x), rtol=1e-3)
        assert model.out_activation_ == "exp"

    def test_the_loss_is_half_the_deviance(self):
        from sklearn.metrics import mean_poisson_deviance

        x, y = self.data()
        model = BackpropRegressor((), loss="poisson", alpha=0, learning_rate_init=1e-9, max_iter=1).fit(x, y)
        assert model.loss_ == pytest.approx(mean_poisson_deviance(y, model.predict(x)) / 2, rel=1e-6)

    def test_the_link_is_that_of_the_fit(self):
        x, y = self.data()
        model = BackpropRegressor(loss="poisson", max_iter=3).fit(x, y)
        said = model.predict(x)
        np.testing.assert_array_equal(model.set_params(loss="squared_error").predict(x), said)
        own = ElementwiseLoss("poisson", "exp(z) - y * z")  # of this name by chance
        assert BackpropRegressor(loss=own, max_iter=3).fit(x, y).out_activation_ == "identity"

    def test_refuses_amounts_below_0(self):
        with pytest.raises(ValueError, match="the loss 'poisson' needs y from 0 on, got -2"):
            BackpropRegressor(loss="poisson").fit([[1.0], [2.0]], [3, -2])


@pytest.mark.parametrize("outputs", [0, 3])
def test_a_step_is_that_of_mlpregressor(outputs):
    """The same weights and a step of SGD over all samples."""
    from sklearn.neural_network import MLPRegressor

    x, y = line(n=30, outputs=outputs)
    options = {"hidden_layer_sizes": (5,), "activation": "tanh", "alpha": 2.0, "learning_rate_init": 0.05}
    ours = BackpropRegressor(**options, optimiser="sgd", random_state=0).partial_fit(x, y)
    theirs = MLPRegressor(**options, solver="sgd", momentum=0.0, random_state=0).partial_fit(x, y)
    for k in range(2):
        ours.net_.weights[k].data[...] = theirs.coefs_[k].T
        ours.net_.biases[k].data[...] = theirs.intercepts_[k]
    ours.partial_fit(x, y)
    theirs.partial_fit(x, y)
    for k in range(2):
        np.testing.assert_allclose(ours.coefs_[k], theirs.coefs_[k], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.intercepts_[k], theirs.intercepts_[k], rtol=1e-10, atol=1e-12)


def test_partial_fit_wants_as_many_targets():
    x, y = line(outputs=3)
    model = BackpropRegressor().partial_fit(x, y)
    with pytest.raises(ValueError, match="y must have 3 columns, as in the first call, got 2"):
        model.partial_fit(x, y[:, :2])


@pytest.mark.parametrize("y", [["a", "b"], [None, 1.0], [np.nan, 1.0], [np.inf, 1.0], [1 + 2j, 1.0]])
def test_refuses_targets_that_are_no_amounts(y):
    with pytest.raises((ValueError, TypeError)):
        BackpropRegressor().fit([[1.0], [2.0]], np.asarray(y))
