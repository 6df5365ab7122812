"""The distance to a shape, from points on its outline and their normals: |grad u| = 1 everywhere, u = 0 on it."""

import numpy as np
from show import grid, run

from backprop_xp import Equation, Net

POINTS = grid((-1, 1), (-1, 1))
HALF, ROUND = np.array([0.35, 0.2]), 0.2  # a rectangle, with all that is nearer than ROUND to it


def exact(points):
    beyond = np.abs(points) - HALF
    return np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0) - ROUND


def outline(count=400):
    """Points on it, (count, 2), and their normals, (count, 2)."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, count)
    normal = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = np.random.default_rng(1).uniform(-1, 1, (count, 2)) * HALF  # along the four straight sides
    side = np.eye(2)[np.arange(count) % 2] * np.sign(normal)
    normal = np.where(np.arange(count)[:, None] % 4 < 2, normal, side)
    corner = np.where(normal == 0, along, np.sign(normal) * HALF)
    return corner + ROUND * normal, normal


def solve(epochs=60):
    net = Net((2, 32, 32, 32, 1), [*["tanh"] * 3, "identity"], "mse", True, rng=0, init="glorot_normal")
    net.reduction = "mean"
    points, normals = outline()
    on_it = Equation("10 * u", "u_x - nx", "u_y - ny", inputs="x y", targets="nx ny")
    slope = Equation("sqrt(u_x ** 2 + u_y ** 2) - 1", inputs="x y")
    sets = {"outline": (points, normals, on_it), "everywhere": (POINTS[::4], slope)}
    return net, net.fit(sets, optimiser="lbfgs", batch_size=None, epochs=epochs)


if __name__ == "__main__":
    run(__file__, solve, POINTS, exact(POINTS))
