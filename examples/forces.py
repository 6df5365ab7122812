"""An energy, learned from 200 energies and forces at random places: the forces are its derivatives (Mueller, Brown)."""

import numpy as np
from show import grid, relative, run

from backprop_xp import Equation, Net

POINTS = grid((-1.5, 1.0), (-0.3, 2.0))
HEIGHT, A, B, C = [-2.0, -1.0, -1.7, 0.15], [-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]
CENTRE = np.array([[1, 0], [0, 0.5], [-0.5, 1.5], [-1, 1]])


def exact(points):
    """The energy (n,), and the forces (n, 2)."""
    x, y = np.moveaxis(points[:, None] - CENTRE, 2, 0)
    hills = HEIGHT * np.exp(A * x**2 + B * x * y + C * y**2)
    slopes = [(hills * (2 * np.array(A) * x + B * y)).sum(axis=1), (hills * (B * x + 2 * np.array(C) * y)).sum(axis=1)]
    return hills.sum(axis=1), -np.stack(slopes, axis=1)


def solve(epochs=30):
    net = Net((2, 32, 32, 1), ("tanh", "tanh", "identity"), "mse", True, rng=0, init="glorot_normal", reduction="mean")
    points = np.random.default_rng(0).uniform(POINTS.min(axis=0), POINTS.max(axis=0), size=(200, 2))
    energy, forces = exact(points)
    both = Equation("e - energy", "e_x + fx", "e_y + fy", inputs="x y", outputs="e", targets="energy fx fy")
    sets = {"data": (points, np.column_stack([energy, forces]), both)}
    history = net.fit(sets, optimiser="lbfgs", batch_size=None, epochs=epochs)
    found = -net.derivatives(POINTS, "jacobian")[:, 0]
    print(f"forces: relative error {relative(found, exact(POINTS)[1]):.1e}")
    return net, history


if __name__ == "__main__":
    run(__file__, solve, POINTS, exact(POINTS)[0])
