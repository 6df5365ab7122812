"""The page docs/derivatives.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "derivatives.md"


def test_the_page_runs_and_solves_the_heat_equation():
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["jacobian"].shape == (1000, 1, 2) and names["laplacian"].shape == (1000, 1)
    assert set(names["both"]) == {"u_t", "u_xx"} and names["along"].shape == (1000, 1, 2)
    x = names["x"]
    exact = np.sin(np.pi * x[:, :1]) * np.exp(-0.1 * np.pi**2 * x[:, 1:])
    assert np.abs(names["net"](x) - exact).max() < 0.02
    terms = names["history"].epochs[-1].terms
    assert list(terms) == ["inside", "walls", "start"] and max(terms.values()) < 1e-3
    assert names["clipped"].shape == (1000,) and (names["clipped"] < 1).any()
