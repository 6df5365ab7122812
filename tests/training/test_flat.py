"""All parameters in one array: what is seen of changes, and what is refused."""

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.tensor import Tensor
from backprop_xp.training import SGD
from backprop_xp.training.flat import Flat


def tensors(*shapes):
    return [Tensor(np.arange(float(np.prod(shape))).reshape(shape) + 1, f"p{i}") for i, shape in enumerate(shapes)]


def test_matrices_come_first_and_every_tensor_is_a_view():
    made = tensors((3,), (2, 2), (1,), (1, 3))
    values = [p.data.copy() for p in made]
    flat = Flat(made)
    assert flat.matrices == 7
    np.testing.assert_array_equal(flat.data, [1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 1])
    assert flat.layout == [["p1", [2, 2]], ["p3", [1, 3]], ["p0", [3]], ["p2", [1]]]
    for p, value in zip(made, values):
        np.testing.assert_array_equal(p.data, value)
        assert np.shares_memory(p.data, flat.data)


def test_gradients_are_gathered_in_the_same_order():
    made = tensors((3,), (2, 2))
    flat = Flat(made)
    made[0].grad, made[1].grad = np.array([1.0, 2.0, 3.0]), np.array([[4.0, 5.0], [6.0, 7.0]]).T
    flat.gather()
    np.testing.assert_array_equal(flat.grad, [4, 6, 5, 7, 1, 2, 3])


def test_a_net_computes_with_the_array_as_it_is(engine):
    net = Net((3, 4, 2), bias=True, rng=0, engine=engine)
    x = np.linspace(-1, 1, 30).reshape(10, 3)
    flat, before = Flat(net.parameters), float(net.loss_and_grad(x))
    flat.data *= 0.5
    halved = Net((3, 4, 2), bias=True, rng=0, engine=engine)
    for p in halved.parameters:
        p.data = p.data * 0.5
    assert float(net.loss_and_grad(x)) == float(halved.loss_and_grad(x)) != before


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2)), [[0, 0], [0, 0]], np.zeros((2, 2), np.float32), np.zeros((2, 2)).T]
)
def test_an_array_put_into_a_tensor_is_taken_over(array):
    made = tensors((2, 2), (3,))
    flat = Flat(made)
    made[0].data = array
    flat.adopt()
    np.testing.assert_array_equal(flat.data, [0, 0, 0, 0, 1, 2, 3])
    assert made[0].data is not array and np.shares_memory(made[0].data, flat.data)


def test_a_tensor_that_is_listed_twice_moves_once():
    p = Tensor(np.zeros(2))
    p.grad = np.ones(2)
    SGD(lr=1.0).step([p, p])
    np.testing.assert_array_equal(p.data, -1.0)


class TestMessages:
    def test_no_parameters(self):
        with pytest.raises(ValueError, match="there are no parameters to train"):
            Flat([])

    @pytest.mark.parametrize("dtype", [np.float32, np.int64])
    def test_mixed_dtypes(self, dtype):
        with pytest.raises(
            TypeError, match=f"all parameters must be float32 or all float64.* b holds {np.dtype(dtype)}"
        ):
            Flat([Tensor(np.zeros(2), "a"), Tensor(np.zeros(2, dtype), "b")])

    def test_no_gradient(self):
        a, b = tensors((2,), (2,))
        a.grad = np.zeros(2)
        with pytest.raises(ValueError, match="p1 has no gradient: call loss_and_grad before a step"):
            SGD().step([a, b])

    def test_a_gradient_of_another_shape(self):
        (p,) = tensors((2,))
        p.grad = np.zeros(3)
        with pytest.raises(ValueError, match=r"the gradient of p0 must have shape \(2,\), got \(3,\)"):
            SGD().step([p])

    def test_parameters_of_another_shape(self):
        (p,) = tensors((2,))
        flat = Flat([p])
        p.data = np.zeros(3)
        with pytest.raises(
            ValueError, match=r"p0 was float64\[2\] of numpy .* is now float64\[3\] of numpy: make a new opt"
        ):
            flat.adopt()

    @pytest.mark.parametrize("change", ["shape", "dtype"])
    def test_parameters_that_become_another_shape_or_dtype_in_place(self, change):
        (p,) = tensors((2, 3))
        flat = Flat([p])
        setattr(p.data, change, {"shape": (3, 2), "dtype": np.int64}[change])
        with pytest.raises(ValueError, match=r"p0 was float64\[2, 3\] of numpy .*: make a new optimiser"):
            flat.adopt()

    @pytest.mark.parametrize("part", [slice(None), slice(None, None, -1), slice(1, None), slice(0, 1)])
    def test_tensors_over_the_same_memory(self, part):
        a, b = tensors((4,), (3,))
        with pytest.raises(ValueError, match="p1 and a parameter are two tensors over the same memory: put one Tensor"):
            Flat([a, b, Tensor(b.data[part])])

    def test_neighbours_are_not_the_same_memory(self):
        whole = np.zeros((4, 6))
        parts = [whole[:, ::2], whole[:, 1::2]]
        assert Flat([Tensor(part) for part in parts]).data.size == 24

    def test_an_array_of_another_tensor_that_is_put_into_one_later(self):
        a, b = tensors((3,), (3,))
        flat = Flat([a, b])
        b.data = b.data[::-1]
        flat.adopt()
        np.testing.assert_array_equal(b.data, [3, 2, 1])
        b.data = a.data
        with pytest.raises(ValueError, match="p0 and p1 are two tensors over the same memory"):
            flat.adopt()
