"""scikit-learn's own tests of MLPClassifier and MLPRegressor, with our estimators in their place.

They are run as they are installed with scikit-learn, wherever they ask for what means the same here: RUN. The others
stand in NOT_RUN, each with the reason. A parameter of theirs that we lack is translated, see :func:`translated`.
"""

import inspect
import itertools

import pytest

sklearn = pytest.importorskip("sklearn")
theirs = pytest.importorskip("sklearn.neural_network.tests.test_mlp")

from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor  # noqa: E402
from backprop_xp.training import LBFGS, SGD  # noqa: E402

RUN = (
    "test_alpha",
    "test_lbfgs_classification",
    "test_lbfgs_regression",
    "test_multilabel_classification",
    "test_multioutput_regression",
    "test_partial_fit_classes_error",
    "test_partial_fit_classification",
    "test_partial_fit_unseen_classes",
    "test_partial_fit_regression",
    "test_nonfinite_params",
    "test_predict_proba_binary",
    "test_predict_proba_multiclass",
    "test_shuffle",
    "test_sparse_matrices",
    "test_tolerance",
    "test_verbose_sgd",
    "test_early_stopping",
    "test_warm_start",
    "test_warm_start_full_iteration",
    "test_mlp_early_stopping_string_labels",
    "test_mlp_classifier_dtypes_casting",
    "test_mlp_param_dtypes",
    "test_mlp_loading_from_joblib_partial_fit",
    "test_preserve_feature_names",
    "test_mlp_warm_start_with_early_stopping",
    "test_mlp_warm_start_no_convergence",
    "test_mlp_partial_fit_after_fit",
    "test_mlp_sample_weight_with_early_stopping",
    "test_minimum_input_sample_size",
)

PRIVATE = "it reads or sets what is private to MLPClassifier"
NOT_RUN = {
    "test_fit": f"{PRIVATE}; its worked example is in test_classifier.py",
    "test_gradient": f"{PRIVATE}; gradients are tested in tests/test_check.py",
    "test_lbfgs_classification_maxfun": "max_fun is of a whole run; max_eval of LBFGS is of each step",
    "test_lbfgs_regression_maxfun": "max_fun is of a whole run; max_eval of LBFGS is of each step",
    "test_mlp_regressor_dtypes_casting": "it wants four digits of predictions near 0 in float32, which depends on the "
    "weights that are drawn; test_estimator.py compares the dtypes",
    "test_mlp_vs_poisson_glm_equivalent": "it wants the four digits of L-BFGS; three are tested in test_regressor.py",
    "test_predict_proba_multilabel": "it wants no more digits of predict_log_proba than np.log(predict_proba) has; ours "
    "has them all, as test_classifier.py tests",
    "test_learning_rate_warmstart": f"{PRIVATE}, for learning_rate='invscaling', which is a schedule here",
    "test_adaptive_learning_rate": f"{PRIVATE}, for learning_rate='adaptive', which there isn't here",
    "test_partial_fit_errors": "all our optimisers have partial_fit; its other half is in test_classifier.py",
    "test_n_iter_no_change": f"{PRIVATE}; the epochs are counted in test_stopping.py",
    "test_n_iter_no_change_inf": f"{PRIVATE}; the epochs are counted in test_stopping.py",
    "test_early_stopping_stratified": "the message names the label 1 of y, theirs the True that they made of it",
    "test_mlp_diverging_loss": "it diverges in the first epoch: theirs answers with the weights that were drawn, ours "
    "raises ValueError; a run that diverges later is in test_stopping.py",
}

#: The last version whose tests were looked through.
KNOWN = (1, 9)


def translated(cls, solver="adam", momentum=0.9, nesterovs_momentum=True, **parameters):
    """Our estimator for parameters of theirs; the ``tol`` of their L-BFGS is of the gradient, and not of the loss."""
    if solver == "sgd":
        parameters["optimiser"] = SGD(momentum=momentum, nesterov=nesterovs_momentum and momentum > 0)
        parameters.setdefault("learning_rate_init", 0.001)
    if solver == "lbfgs":
        parameters |= {"optimiser": LBFGS(), "learning_rate_init": None, "tol": 1e-9}
    return cls(**parameters)


def classifier(**parameters):
    return translated(BackpropClassifier, **parameters)


def regressor(**parameters):
    return translated(BackpropRegressor, **parameters)


OURS = {"MLPClassifier": classifier, "MLPRegressor": regressor}


def choices(function):
    """The arguments of every case of a parametrised test."""
    every = []
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "parametrize":
            names = [name.strip() for name in mark.args[0].split(",")]
            every.append([dict(zip(names, v if len(names) > 1 else [v])) for v in mark.args[1]])
    for chosen in itertools.product(*every):
        arguments = {name: value for part in chosen for name, value in part.items()}
        if arguments.get("solver") != "lbfgs":  # whose iterations they count
            yield arguments


def cases():
    for name in RUN:
        if hasattr(theirs, name):  # some are younger than the oldest scikit-learn that we take
            for i, arguments in enumerate(choices(getattr(theirs, name))):
                yield pytest.param(name, arguments, id=f"{name}-{i}")


@pytest.mark.parametrize(("name", "arguments"), list(cases()))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_of_scikit_learn(name, arguments, request, monkeypatch):
    for known, ours in OURS.items():
        arguments = {k: ours if v is getattr(theirs, known) else v for k, v in arguments.items()}
        monkeypatch.setattr(theirs, known, ours)
    function = getattr(theirs, name)
    for wanted in inspect.signature(function).parameters:
        if wanted not in arguments:
            arguments[wanted] = request.getfixturevalue(wanted)
    function(**arguments)


def test_every_test_of_theirs_is_run_or_has_a_reason():
    assert not set(RUN) & set(NOT_RUN)
    version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
    if version > KNOWN:
        pytest.skip(f"scikit-learn {sklearn.__version__} is younger than this list")
    found = {name for name, value in vars(theirs).items() if name.startswith("test_") and callable(value)}
    assert found <= set(RUN) | set(NOT_RUN)
    if version == KNOWN:
        assert found == set(RUN) | set(NOT_RUN)
