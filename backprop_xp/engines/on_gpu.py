"""The engines for CuPy, which are imported with the first net on a device."""

from __future__ import annotations

from ..plan.engine import Engine
from . import cooperative, fused_gpu, layered

#: The one that "auto" would rather have first.
ON_GPU: dict[str, Engine] = {"fused": fused_gpu, "cooperative": cooperative, "layered": layered}
