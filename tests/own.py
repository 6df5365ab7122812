"""What users write in plain array code, so that only the layered engine runs it."""

from backprop_xp import Activation, Operation


class Cube(Activation):
    scope = "sample"

    def __call__(self, x):
        return x**3

    def grad(self, x):
        return 3 * x**2


class Doubled(Operation):
    scope = "sample"

    def forward(self, z):
        return 2 * z

    def backward(self, grad, z):
        return 2 * grad
