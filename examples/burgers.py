"""A shock: Burgers' equation u_t + u u_x = 0.01 / pi u_xx on [-1, 1], against the exact solution by Cole and Hopf.

It stays odd in x, so that one half says it all, with the shock at the wall x = 0."""

import numpy as np
from show import edge, grid, run

from backprop_xp import Equation, Net
from backprop_xp.training import LBFGS

NU = 0.01 / np.pi
POINTS = grid((0, 1), (0, 1))


def exact(points):
    """The heat equation's solution behind it is an integral with a Gaussian: by the Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = np.pi * (points[:, :1] - np.sqrt(4 * NU * points[:, 1:]) * nodes)
    density = weights * np.exp(-(np.cos(y) + 1) / (2 * np.pi * NU))
    return -(density * np.sin(y)).sum(axis=1) / density.sum(axis=1)


def solve(epochs=500):
    sizes, activations = (2, *[20] * 5, 1), ["tanh"] * 5 + ["identity"]
    net = Net(sizes, activations, "mse", bias=True, rng=0, init="glorot_normal", reduction="mean")
    burgers = Equation("u_t + u * u_x - nu * u_xx", inputs="x t", params={"nu": NU})
    inside = np.random.default_rng(0).uniform(size=(1500, 2))
    inside[:400, 0] *= 0.05  # more of them near the shock
    walls, start = edge(POINTS, 0, 0, 1), edge(POINTS, 1, 0)
    sets = {
        "inside": (inside, burgers),
        "walls": (walls, np.zeros(len(walls)), "mse", 100.0),
        "start": (start, -np.sin(np.pi * start[:, 0]), "mse", 100.0),
    }
    return net, net.fit(sets, optimiser=LBFGS(tolerance_change=1e-14), batch_size=None, epochs=epochs)


if __name__ == "__main__":
    run(__file__, solve, POINTS, exact(POINTS))
