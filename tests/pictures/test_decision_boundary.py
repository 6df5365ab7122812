"""What a net of two features answers where, drawn."""

import sys

import numpy as np
import pytest

from backprop_xp import GraphNet, Input, Linear, Net
from backprop_xp.pictures import decision_boundary as draw

OPTIONS = {"backend": "numpy", "rng": 0}


def net(weight, loss, bias=None):
    made = Net((2, len(weight)), ("identity",), loss, bias is not None, **OPTIONS)
    made.weights[0].data[:] = weight
    if bias is not None:
        made.biases[0].data[:] = bias
    return made


def contours(axes):
    """The points of every line of a level, (n, 2) each."""
    from matplotlib.contour import ContourSet

    sets = [each for each in axes.get_children() if isinstance(each, ContourSet)]
    return [path.vertices for each in sets for path in each.get_paths() if len(path.vertices)]


def points(axes):
    from matplotlib.collections import PathCollection

    return [each for each in axes.get_children() if type(each) is PathCollection]


def test_classes_have_colours_and_borders_where_two_are_alike(pyplot):
    x = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 1.0]])
    axes = draw(net([[1.0, 0.0], [-1.0, 0.0]], "softmax_cross_entropy"), x, [0, 1, 0])
    image = axes.get_images()[0].get_array()
    left, right = image[100, 0], image[100, -1]
    assert (left[:3] != right[:3]).any() and left[3] > image[100, 100, 3]  # paler where it is undecided
    for line in contours(axes):
        np.testing.assert_allclose(line[:, 0], 0, atol=1e-12)
    assert len(contours(axes)) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["class 0", "class 1"]
    assert sorted(len(each.get_offsets()) for each in points(axes)) == [1, 2]
    low, high = axes.get_xlim()
    assert low == pytest.approx(-1.16) and high == pytest.approx(1.16)


def test_one_hot_rows_and_classes_that_are_asked_for(pyplot):
    made = net([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]], "mse")
    axes = draw(made, np.eye(2), np.eye(3)[:2], classes=True)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["class 0", "class 1"]
    assert len(contours(axes)) == 3


def test_a_logit_is_a_probability_with_a_line_at_one_half(pyplot):
    axes = draw(net([[1.0, 1.0]], "bce_with_logits", [-0.5]), limits=((-2, 2), (-3, 3)))
    image = axes.get_images()[0]
    assert image.get_clim() == (0, 1) and image.get_array().min() < 0.01
    (line,) = contours(axes)
    np.testing.assert_allclose(line.sum(axis=1), 0.5, atol=1e-2)
    assert axes.get_xlim() == (-2, 2) and axes.get_ylim() == (-3, 3)


def test_amounts_have_level_lines_and_points_their_colours(pyplot, random):
    x = random.uniform(-1, 1, (20, 2))
    axes = draw(net([[1.0, 2.0]], "mse"), x, 5 * x[:, :1])
    assert len(contours(axes)) > 4
    (cloud,) = points(axes)
    assert cloud.get_clim() == axes.get_images()[0].get_clim()
    axes = draw(net([[1.0, 2.0], [1.0, 0.0]], "mse"), x, np.zeros((20, 2)), output=1, level=0.25)
    (line,) = contours(axes)
    np.testing.assert_allclose(line[:, 0], 0.25, atol=1e-12)
    axes.figure.canvas.draw()


def test_amounts_in_units_of_ones_own(pyplot, random):
    x = random.uniform(-1, 1, (20, 2))
    units = lambda z: 100 + 10 * z  # noqa: E731
    axes = draw(net([[1.0, 2.0]], "mse"), x, x[:, :1], answer="price", units=units, level=100)
    (cloud,) = points(axes)
    np.testing.assert_allclose(cloud.get_array(), 100 + 10 * x[:, 0])
    for line in contours(axes):
        np.testing.assert_allclose(line[:, 0] + 2 * line[:, 1], 0, atol=1e-12)
    assert axes.get_images()[0].colorbar.ax.get_ylabel() == "price"
    assert draw(net([[1.0, 1.0]], "bce_with_logits"), answer="$p$").get_images()[0].colorbar.ax.get_ylabel() == r"\$p\$"


def test_classes_with_names_are_all_listed(pyplot):
    made = net([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]], "softmax_cross_entropy")
    for x, y in ((None, None), ([[0.0, 1.0]], None), ([[0.0, 1.0]], [1])):
        axes = draw(made, x, y, labels=("a", "b", "c"))
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
        assert sum(len(each.get_offsets()) for each in points(axes)) == (x is not None)
    assert draw(made).get_legend() is None


def test_graphs_of_one_input_and_of_two(pyplot):
    nodes = {"a": Input(1), "b": Input(1), "both": ("concatenate", "a", "b"), "y": (Linear(1), "both")}
    axes = draw(GraphNet(nodes, **OPTIONS))
    assert axes.get_images()[0].get_array().shape == (201, 201)
    draw(GraphNet({"a": Input(2), "y": (Linear(2), "a")}, loss="softmax_cross_entropy", **OPTIONS))


def test_many_classes_odd_labels_and_odd_numbers(pyplot, random):
    x = random.normal(size=(40, 2))
    axes = draw(net(random.normal(size=(30, 2)), "softmax_cross_entropy"), x, np.arange(40) % 31 - 1)
    assert axes.get_legend() is None  # too many
    x[0] = np.nan
    axes = draw(net([[np.inf, 0.0], [0.0, 1.0]], "softmax_cross_entropy"), x, np.zeros(40))
    axes.figure.canvas.draw()
    for loss in ("mse", "bce_with_logits"):
        draw(net([[np.nan, 1.0]], loss), x, np.zeros(40)).figure.canvas.draw()
        draw(net([[0.0, 0.0]], loss), np.ones((1, 2)), [1.0]).figure.canvas.draw()
    draw(net([[1e300, 1e300]], "bce_with_logits")).figure.canvas.draw()
    draw(net([[1.0, 1.0]], "softmax_cross_entropy")).figure.canvas.draw()


def test_a_part_of_a_figure(pyplot):
    given = pyplot.subplots()[1]
    assert draw(net([[1.0, 1.0]], "mse"), axes=given) is given


@pytest.mark.parametrize(("arguments", "said"), [
    ({"x": np.ones((3, 3))}, r"x must be \(n, 2\), got the shape \(3, 3\)"),
    ({"x": np.ones(2)}, r"x must be \(n, 2\)"),
    ({"y": [1, 2]}, "give x too"),
    ({"x": np.ones((3, 2)), "y": [1, 2]}, "a row for each of the 3 points"),
    ({"x": np.ones((3, 2)), "y": [0.5, 1, 2]}, "y must be class indices"),
    ({"x": np.ones((3, 2)), "y": [0, 1, np.nan]}, "y must be class indices"),
    ({"x": np.ones((3, 2)), "y": np.ones((3, 5))}, r"y must be class indices, or \(n, 2\)"),
    ({"x": np.ones((3, 2)), "y": ["a", "b", "c"]}, "y must be numbers, classes by their index, got <U1"),
    ({"limits": ((1, 0), (0, 1))}, r"limits must be \(\(low, high\), \(low, high\)\)"),
    ({"limits": (0, np.inf)}, "limits must be"),
    ({"classes": False, "output": 2}, "output must be"),
])  # fmt: skip
def test_what_is_wrong_is_said(arguments, said, pyplot):
    with pytest.raises(ValueError, match=said):
        draw(net([[1.0, 0.0], [0.0, 1.0]], "softmax_cross_entropy"), **arguments)


@pytest.mark.parametrize(("arguments", "said"), [
    ({"answer": 3}, "answer must be a text, what the amount or the probability is called, got 3"),
    ({"units": 10.0}, r"units must be a function from amounts to those that are drawn, got 10\.0"),
    ({"units": np.mean}, r"units must give as many amounts as it is given, \(201, 201\), got \(\)"),
    ({"units": np.ravel}, r"it is given, \(201, 201\), got \(40401,\)"),
])  # fmt: skip
def test_names_and_units_that_are_none(arguments, said, pyplot):
    with pytest.raises((TypeError, ValueError), match=said):
        draw(net([[1.0, 2.0]], "mse"), **arguments)


def test_nets_of_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"a net with 2 features, got Net\(5-10-4-12"):
        draw(Net(backend="numpy"))


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="a decision boundary needs matplotlib"):
        draw(net([[1.0, 1.0]], "mse"))


@pytest.mark.gpu
def test_on_a_device(cupy, pyplot):
    made = Net((2, 3), ("identity",), "softmax_cross_entropy", rng=0, backend="cupy")
    draw(made, cupy.eye(2), cupy.asarray([0, 1])).figure.canvas.draw()
