"""Standing waves: u_xx + u_yy + u = f on a square, 0 at its edges; the source f is a target."""

import numpy as np
from show import edge, grid, run

from backprop_xp import Equation, Net

POINTS = grid((-1, 1), (-1, 1))
WAVES = np.pi * np.array([1.0, 4.0])


def exact(points):
    return np.sin(WAVES * points).prod(axis=1)


def solve(epochs=60):
    net = Net(
        (2, *[32] * 3, 1), [*["tanh"] * 3, "identity"], "mse", True, rng=0, init="glorot_normal", reduction="mean"
    )
    net.weights[0].data *= 3.0  # so that it can bend as often as the waves that are looked for
    helmholtz = Equation("u_xx + u_yy + u - f", inputs="x y", targets="f")
    inside = np.random.default_rng(0).uniform(-1, 1, size=(2500, 2))
    source = (1 - (WAVES**2).sum()) * exact(inside)
    edges = np.concatenate([edge(POINTS, axis, -1, 1) for axis in (0, 1)])
    sets = {"inside": (inside, source, helmholtz), "edges": (edges, np.zeros(len(edges)), "mse", 100.0)}
    return net, net.fit(sets, optimiser="lbfgs", batch_size=None, epochs=epochs)


if __name__ == "__main__":
    run(__file__, solve, POINTS, exact(POINTS))
