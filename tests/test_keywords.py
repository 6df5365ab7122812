"""Arguments that a function doesn't have are refused with the nearest that it has."""

import inspect

import pytest

from backprop_xp import Elementwise, ElementwiseLoss, Equation, Graph, GraphNet, Input, Linear, Net, SoftmaxCrossEntropy
from backprop_xp.keywords import known_fields, known_options
from backprop_xp.pictures import decision_boundary
from backprop_xp.training import SGD

NODES = {"x": Input(2), "y": (Linear(2), "x")}


def through_a_graph(**options):
    g = Graph()
    return g.net(g.linear(g.input(2), 1), **options)


@pytest.mark.parametrize(
    ("make", "wrong", "said"),
    [
        (lambda **o: Net((2, 1), **o), "activation", "unknown option of Net 'activation'; did you mean 'activations'?"),
        (lambda **o: Net((2, 1), **o), "optimiser", "unknown option of Net 'optimiser'; known are sizes, "),
        (lambda **o: GraphNet(NODES, **o), "reductoin", "unknown option of GraphNet 'reductoin'; did you mean "),
        (lambda **o: Net((2, 1), **o), "random_state", "unknown option of Net 'random_state'; did you mean 'rng'?"),
        (lambda **o: SGD(**o), "learning_rate", "unknown option of SGD 'learning_rate'; did you mean 'lr'?"),
        (through_a_graph, "los", "unknown option of GraphNet 'los'; did you mean 'loss'?"),
    ],
)
def test_nets(make, wrong, said):
    with pytest.raises(TypeError) as raised:
        make(**{wrong: 1})
    assert str(raised.value).startswith(said)


def test_tables():
    pytest.importorskip("pandas")
    from backprop_xp.data import Recipe, read, train

    for make, said in (
        (lambda: Recipe(epoch=3), "unknown option of Recipe 'epoch'; did you mean 'epochs'?"),
        (lambda: train(None, "y", recipes=Recipe()), "unknown option of train 'recipes'; did you mean 'recipe'?"),
        (lambda: Recipe(learning_rate=1), "unknown option of Recipe 'learning_rate'; did you mean 'lr'?"),
        (
            lambda: Recipe(betas=(0, 0)),
            "betas is no option of Recipe: of its optimiser's it has lr and weight_decay alone",
        ),
        (lambda: train(None, "y", epochs=3), "epochs is a field of Recipe: recipe=Recipe(epochs=3)"),
        (lambda: train(None, "y", learning_rate=0.5), "lr is a field of Recipe: recipe=Recipe(lr=0.5)"),
        (lambda: read("t.csv", seperator=";"), "unknown option of read 'seperator'; did you mean 'separator'?"),
    ):
        with pytest.raises(TypeError) as raised:
            make()
        assert str(raised.value) == said
    assert Recipe(optimizer="sgd") == Recipe(optimiser="sgd")


def test_estimators():
    pytest.importorskip("sklearn")
    from sklearn.base import clone

    from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor

    for kind in (BackpropClassifier, BackpropRegressor):
        with pytest.raises(TypeError, match=f"option of {kind.__name__} 'hidden_layers'; did you mean 'hidden_l"):
            kind(hidden_layers=(3,))
        with pytest.raises(TypeError, match=r"'learning_rate'; did you mean 'learning_rate_init'\?"):
            kind(learning_rate="adaptive")
        with pytest.raises(TypeError, match=r"option of .* 'lr'; did you mean 'learning_rate_init'\?"):
            kind(lr=0.1)
        with pytest.raises(TypeError, match=r"option of .* 'weight_decay'; did you mean 'alpha'\?"):
            kind(weight_decay=0.1)
        with pytest.raises(TypeError, match="momentum is no option of"):
            kind(momentum=0.9)
        assert clone(kind(alpha=0.5)).get_params()["alpha"] == 0.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Elementwise("a", val="t"), "unknown option of Elementwise 'val'; did you mean 'value'?"),
        (
            lambda: ElementwiseLoss("a", value="z", param={}),
            "unknown option of ElementwiseLoss 'param'; did you mean 'para",
        ),
        (
            lambda: SoftmaxCrossEntropy(weights=[1, 2]),
            "unknown option of SoftmaxCrossEntropy 'weights'; did you mean 'wei",
        ),
        (
            lambda: Equation("u_x", inputs="x", output="u"),
            "unknown option of Equation 'output'; did you mean 'outputs'?",
        ),
        (lambda: Equation(residuals="u_x", inputs="x"), "unknown option of Equation 'residuals'; known are inputs, "),
        (
            lambda: Net((2, 1), rng=0).explain([1, 2], train=1),
            "unknown option of explain 'train'; did you mean 'training'?",
        ),
        (lambda: decision_boundary(None, label=("a",)), "unknown option of decision_boundary 'label'; did you mean 'l"),
    ],
)
def test_functions_losses_and_what_shows(make, said):
    with pytest.raises(TypeError) as raised:
        make()
    assert str(raised.value).startswith(said)


def test_a_constructor_without_an_object():
    with pytest.raises(TypeError, match=r"Net\.__init__\(\) missing"):
        Net.__init__()
    with pytest.raises(TypeError, match=r"unknown option of Net\.__init__ 'size'; did you mean 'sizes'\?"):
        Net.__init__(size=(2, 1))


def test_signatures_stay():
    assert list(inspect.signature(Net).parameters)[:3] == ["sizes", "activations", "loss"]


def test_a_subclass_goes_by_its_own_name():
    class Base:
        @known_options
        def __init__(self, a=1, b=2):
            self.a, self.b = a, b

    class Sub(Base):
        pass

    assert vars(Sub(3, b=4)) == {"a": 3, "b": 4}
    with pytest.raises(TypeError, match="unknown option of Sub 'c'; known are a, b"):
        Sub(c=1)

    @known_fields
    class Other:
        def __init__(self, size=1):
            self.size = size

    with pytest.raises(TypeError, match=r"unknown option of Other 'sizes'; did you mean 'size'\?"):
        Other(sizes=2)
