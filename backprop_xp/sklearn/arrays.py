"""What users hand to estimators, checked as scikit-learn does it, and answers in the array library that they came in.

Arrays on a CUDA device stay there. Other libraries' arrays are taken as scikit-learn takes them: as NumPy arrays, and
with ``sklearn.set_config(array_api_dispatch=True)`` answers are arrays of the same library on the same device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._array_api import _convert_to_numpy, get_namespace
from sklearn.utils.validation import validate_data

from .. import frames
from ..backend import Array, module_of, owner_of

FLOATS = (np.float64, np.float32)
#: Rows of which outputs are computed at a time. Below 1 << 17 nothing is compiled for the net at hand.
ROWS_AT_ONCE = 1 << 16
#: Numbers in the rows of a sparse matrix that are made an array at a time.
NUMBERS_AT_ONCE = 1 << 22


def inputs(estimator: Any, X: Any, reset: bool) -> Any:
    """Features, (n, features): an array of numbers, on the host or a CUDA device, or a sparse matrix of rows.

    Args:
        reset: whether the estimator is to remember the number and the names of the features, or compares them.

    Raises:
        ValueError, TypeError: scikit-learn's, for anything else, and for NaN and infinite numbers.
    """
    if not reset and _passes(estimator, X):
        return X
    _refuse_masks(X, "X")
    if owner_of(X) != "cupy":
        checked = validate_data(estimator, X, accept_sparse="csr", reset=reset)
        return checked if frames.is_sparse(checked) else host(checked)
    if X.ndim != 2 or not X.size or X.dtype.kind not in "biuf":
        raise ValueError(f"X must be (n, features) real numbers, at least one row; got {X.dtype}{list(X.shape)}")
    if X.dtype.kind == "f" and not bool(module_of(X).isfinite(X).all()):
        raise ValueError("Input X contains NaN or infinity")
    return validate_data(estimator, X, reset=reset, skip_check_array=True)


def _passes(estimator: Any, X: Any) -> bool:
    """Whether X is an array that scikit-learn's checks would give back as it is: they take longer than a small net."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.dtype.type not in FLOATS or not X.size:
        return False
    if X.shape[1] != estimator.n_features_in_ or hasattr(estimator, "feature_names_in_"):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum()))


def targets(estimator: Any, y: Any, x: Any) -> np.ndarray:
    """Targets on the host, (n,) or (n, outputs), as many as ``x`` has rows; a single column is (n,), with a warning."""
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    _refuse_masks(y, "y")
    y = _of_its_own_kind(host(y))
    y = check_array(y, accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y", estimator=estimator)
    y = y.toarray() if frames.is_sparse(y) else y
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.ndim not in (1, 2):
        raise ValueError(f"y must be (n,) or (n, outputs), got {y.ndim} dimensions {y.shape}")
    if len(y) != x.shape[0]:
        raise ValueError(f"X and y have inconsistent numbers of samples: {x.shape[0]} and {len(y)}")
    return y


def _of_its_own_kind(y: Any) -> Any:
    """Targets that scikit-learn would make numbers or texts of, though they are something else, as arrays.

    These are nullable columns of pandas, of which it makes floats, and lists in which some elements are texts.
    """
    if isinstance(y, (list, tuple)) and len({isinstance(value, str) for value in y}) == 2:
        result = np.empty(len(y), object)
        result[:] = y
        return result
    if getattr(y, "ndim", 0) == 1 and hasattr(y, "isna"):
        if (missing := np.asarray(y.isna(), bool)).any():
            raise ValueError(f"Input y contains NaN, or nothing: the first is sample {int(missing.argmax())}")
        return y.to_numpy()
    return y


def _refuse_masks(data: Any, what: str) -> None:
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array: say what stands for masked elements with {what}.filled(...)")


def host(data: Any) -> Any:
    """A NumPy array of an array of another library or device; anything that is none of these as it is."""
    if owner_of(data) == "cupy":
        return data.get()
    if get_config()["array_api_dispatch"]:
        xp, speaks_it = get_namespace(data)
        if speaks_it and not isinstance(data, np.ndarray):
            return _convert_to_numpy(data, xp)
    return data


def like(result: Array, X: Any) -> Any:
    """The result of a net as an array of the library that ``X`` is of, and on its device.

    Texts, which no other library has, stay NumPy's.
    """
    if owner_of(X) == "cupy":
        return result
    result = host(result)
    if get_config()["array_api_dispatch"] and result.dtype.kind in "biuf":
        xp, speaks_it = get_namespace(X)
        if speaks_it and not isinstance(X, np.ndarray):
            return xp.asarray(result, device=X.device)
    return result


def place(X: Any) -> tuple[str, str] | None:
    """The library and the device of ``X`` where scikit-learn dispatches by them, None elsewhere."""
    if not get_config()["array_api_dispatch"]:
        return None
    xp, speaks_it = get_namespace(X)
    if not speaks_it or isinstance(X, np.ndarray):
        return "numpy", "cpu"
    return xp.__name__, str(X.device)


def rows_of(x: Any, rows: np.ndarray) -> Any:
    """Some rows, by their numbers, of what :func:`inputs` gave."""
    return x[module_of(x).asarray(rows)]


def pieces(x: Any) -> Iterator[Array]:
    """What :func:`inputs` gave in pieces that are arrays."""
    samples, features = x.shape
    sparse = frames.is_sparse(x)
    length = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // features)) if sparse else ROWS_AT_ONCE
    if not sparse and samples <= length:
        yield x
        return
    for start in range(0, samples, length):
        piece = x[start : start + length]
        yield piece.toarray() if sparse else piece
