"""A rod that cools down: u_t = 0.1 u_xx, its ends at 0, a sine at first. What is known: the exact solution."""

import numpy as np
from show import edge, grid, run

from backprop_xp import Equation, Net

POINTS = grid((0, 1), (0, 1))
EXACT = np.sin(np.pi * POINTS[:, 0]) * np.exp(-0.1 * np.pi**2 * POINTS[:, 1])


def solve(epochs=20):
    net = Net((2, 20, 20, 1), ("tanh", "tanh", "identity"), "mse", True, rng=0, init="glorot_normal", reduction="mean")
    heat = Equation("u_t - nu * u_xx", inputs="x t", outputs="u", params={"nu": 0.1})
    inside = np.random.default_rng(0).uniform(size=(1000, 2))
    ends, start = edge(POINTS, 0, 0, 1), edge(POINTS, 1, 0)
    sets = {
        "inside": (inside, heat),
        "ends": (ends, np.zeros(len(ends))),  # with the net's own loss, mse
        "start": (start, np.sin(np.pi * start[:, 0])),
    }
    return net, net.fit(sets, optimiser="lbfgs", batch_size=None, epochs=epochs)


if __name__ == "__main__":
    run(__file__, solve, POINTS, EXACT)
