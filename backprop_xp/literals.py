"""What arguments of nets may be, for type checkers: the names that are checked, in any case, when a net is made."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Reduction = Literal["sum", "mean"]
#: "auto", or one of :data:`backprop_xp.engines.ENGINES`.
EngineName = Literal["auto", "layered", "tiled", "fused", "cooperative"]
#: What NumPy takes for one of its two types.
Dtype = Literal["float32", "float64"] | np.dtype[Any] | type[np.floating[Any]] | type[float]
