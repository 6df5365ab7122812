"""scikit-learn's checks of estimators: all of them, and no failure is expected."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks

from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks([BackpropClassifier(max_iter=100), BackpropRegressor(max_iter=100)])
def test_check_estimator(estimator, check):
    check(estimator)


def test_with_arrays_of_other_libraries():
    """Dispatching by array library must be switched on before SciPy is imported, and so in another process."""
    from sklearn import __version__

    if tuple(int(part) for part in __version__.split(".")[:2]) < (1, 8):
        pytest.skip("scikit-learn's checks of this are from 1.8 on")
    pytest.importorskip("array_api_strict")
    program = """
import warnings
warnings.simplefilter("ignore")
from sklearn.utils.estimator_checks import check_estimator
from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor
for estimator in (BackpropClassifier(max_iter=30), BackpropRegressor(max_iter=30)):
    done = check_estimator(estimator, on_fail=None)
    ours = [result for result in done if "array_api" in result["check_name"]]
    for result in ours:
        # of CuPy without a device
        if result["status"] not in ("passed", "skipped") and "cudaError" not in str(result["exception"]):
            print(result["check_name"], result["exception"])
    print(sum(result["status"] == "passed" for result in ours) > 5)
"""
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "BACKPROP_XP_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"], done.stdout
