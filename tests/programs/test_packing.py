"""Parameters of a compiled graph: nothing overlaps, and gradients come back where they belong."""

import numpy as np
import pytest

from backprop_xp.graph import Input, Linear
from backprop_xp.graph.description import as_nodes
from backprop_xp.programs.packing import Packing

NODES = as_nodes(
    {
        "x": Input(5), "a": (Linear(18), "x"), "c": ("concatenate", "x", "a"), "b": (Linear(18, bias=False), "c"),
        "n": ("layer_norm", "b"), "y": (Linear(18, share="s"), "n"), "s": (Linear(18), "a"), "z": ("add", "y", "s"),
    }
)  # fmt: skip
SHAPES = {"a": (18, 5), "b": (18, 23), "s": (18, 18), "n": None}


def packing_of():
    packing = Packing(itemsize=4)
    for i, node in enumerate(NODES):
        if node.name in ("a", "s", "y", "b", "n"):
            packing.add(node, i, {"a": (5,), "s": (18,), "y": (18,), "b": (5, 18), "n": ()}[node.name])
    return packing


def parameters(random):
    found = {name: {"weight": random.normal(size=shape)} for name, shape in SHAPES.items() if shape}
    for name in ("a", "s"):
        found[name]["bias"] = random.normal(size=18)
    return found | {"n": {"gain": random.normal(size=18), "bias": random.normal(size=18)}}


@pytest.mark.parametrize("panel", [4, 8, 16])
def test_every_parameter_is_packed_where_a_product_reads_it(random, panel):
    packing, own = packing_of(), parameters(random)
    packed = packing.pack(NODES, own, np.dtype("float64"), panel)
    for name, owner in {"a": "a", "s": "s", "y": "s", "b": "b"}.items():
        place, weight = packing.places[name], own[owner]["weight"]
        for o, i in np.ndindex(weight.shape):
            at = place.pieces[0].transposed + (o // panel * weight.shape[1] + i) * panel + o % panel
            assert packed[at] == weight[o, i]
            column, piece = (i, place.pieces[0]) if i < place.pieces[0].width else (i - 5, place.pieces[-1])
            assert packed[piece.weight + (column // panel * 18 + o) * panel + column % panel] == weight[o, i]
    at = packing.places["n"].vectors["gain"][0]
    np.testing.assert_array_equal(packed[at : at + 18], own["n"]["gain"])


@pytest.mark.parametrize("panel, weight_rows", [(16, 8), (8, 4), (4, 4)])
def test_gradients_come_back_and_those_of_shared_weights_are_summed(random, panel, weight_rows):
    packing, own = packing_of(), parameters(random)
    given = {name: {key: random.normal(size=a.shape) for key, a in own[owner].items()}
             for name, owner in {"a": "a", "s": "s", "y": "s", "b": "b", "n": "n"}.items()}  # fmt: skip
    packed, rows = np.full(packing.grads, np.nan), -(-18 // weight_rows) * weight_rows
    for name, place in packing.places.items():
        column = 0
        for piece in place.pieces:
            for o, i in np.ndindex(18, piece.width):
                at = piece.grad + (i // panel * rows + o) * panel + i % panel
                assert np.isnan(packed[at])  # nobody else's
                packed[at] = given[name]["weight"][o, column + i]
            column += piece.width
        for key, (_, at) in place.vectors.items():
            assert np.isnan(packed[at : at + 18]).all()
            packed[at : at + 18] = given[name][key]
    found = packing.unpack(NODES, own, packed, panel, weight_rows)
    expected = [given[o][k] + given["y"][k] if o == "s" else given[o][k] for o, names in own.items() for k in names]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
