"""Estimators for scikit-learn: :class:`BackpropClassifier` and :class:`BackpropRegressor`.

They have the parameters, attributes and methods of scikit-learn's MLPClassifier and MLPRegressor where these mean the
same, and train a :class:`backprop_xp.Net` with its own ``fit``. Here ``sklearn`` is scikit-learn, never this folder.
"""

try:
    from sklearn.utils.validation import validate_data  # noqa: F401  of scikit-learn 1.6
except ImportError as error:
    raise ImportError(
        f"backprop_xp.sklearn needs scikit-learn 1.6 or newer ({error}): pip install 'backprop-xp[sklearn]'"
    ) from None

from .classifier import BackpropClassifier
from .regressor import BackpropRegressor

__all__ = ["BackpropClassifier", "BackpropRegressor"]
