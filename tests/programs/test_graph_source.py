"""The steps that operations write, strung together: one graph with all of them, as text."""

from backprop_xp import get_loss
from backprop_xp.graph import BatchNorm, Dropout, Input, LayerNorm, Linear
from backprop_xp.graph.description import as_nodes
from backprop_xp.losses import kernel_of
from backprop_xp.programs.graph_source import Writer, shape_of

NODES = {
    "x": Input(5), "a": (Linear(8), "x"), "b": ("tanh", "a"), "c": ("add", "b", "a"), "d": ("concatenate", "x", "c"),
    "e": (Linear(8, bias=False), "d"), "f": (LayerNorm(), "e"), "g": (Dropout(0.25), "f"),
    "h": ("multiply", "g", "c"), "i": (BatchNorm(), "h"), "j": ("concatenate", "i", "x"), "k": ("relu", "j"),
}  # fmt: skip

FORWARD = """
graph_input<R>(args, 0, tile.first, 5, tile.valid, b0)
graph_linear<R, S>(5, 0, 5, 8, params + 0, params + 208, b0, b1, tile.used)
graph_activate<bpx::hyperbolic_tangent, R, S>(8, scalars + 0, b1, b2, (S*)b3, tile.used)
graph_add<R, S>(8, b2, b1, b4, tile.used)
graph_linear<R, S>(13, 0, 5, 8, params + 224, (const S*)nullptr, b0, b5, tile.used)
graph_linear<R, S>(13, 5, 8, 8, params + 224, (const S*)nullptr, b4, b5, tile.used)
graph_normalise<R, S>(8, S(1e-05), params + 688, params + 704, b5, b7, b8, b6, tile.used)
graph_drop<R, S>(8, tile.first, args.keys[0], 4194304, S(1.3333333333333333), b6, b9, tile.used, false)
graph_multiply<R, S>(8, b9, b4, b10, tile.used, false)
graph_standardise<R, S>(8, S(1e-05), params + 752, params + 768, params + 720, params + 736, b10, b12, b11, tile.used)
graph_join<R>(8, b11, 0, b13, tile.used)
graph_join<R>(5, b0, 8, b13, tile.used)
graph_activate<Activation0, R, S>(13, scalars + 0, b13, b14, (S*)b15, tile.used)
wide_loss<Graph, 13, 0, R>(tile, b14)
"""

BACKWARD = """
graph_multiply<R, S>(13, b14, b15, b16, tile.used, false)
graph_split<R, S>(8, b16, 0, b17, tile.used, false)
graph_column_sums<R, S>(8, b17, b12, grads + 432, tile.valid, tile.add)
graph_column_sums<R, S>(8, b17, (const S*)nullptr, grads + 448, tile.valid, tile.add)
graph_standardise_below<R, S>(8, S(1e-05), params + 768, params + 720, b17, b18, tile.used, false)
graph_multiply<R, S>(8, b18, b4, b19, tile.used, false)
graph_multiply<R, S>(8, b18, b9, b20, tile.used, false)
graph_drop<R, S>(8, tile.first, args.keys[0], 4194304, S(1.3333333333333333), b19, b21, tile.used, false)
graph_column_sums<R, S>(8, b21, b7, grads + 400, tile.valid, tile.add)
graph_column_sums<R, S>(8, b21, (const S*)nullptr, grads + 416, tile.valid, tile.add)
graph_normalise_below<R, S>(8, params + 688, b7, b8, b21, b22, tile.used, false)
graph_outer<R, S>(13, 5, 8, b22, b0, grads + 144, tile.valid, tile.add)
graph_outer<R, S>(13, 8, 8, b22, b4, grads + 272, tile.valid, tile.add)
graph_linear_below<R, S>(8, 8, params + 560, b22, b20, tile.used, true)
graph_copy<R, S>(8, b20, b23, tile.used)
graph_multiply<R, S>(8, b20, b3, b23, tile.used, true)
graph_column_sums<R, S>(8, b23, (const S*)nullptr, grads + 128, tile.valid, tile.add)
graph_outer<R, S>(5, 5, 8, b23, b0, grads + 0, tile.valid, tile.add)
"""


def test_the_steps_of_every_operation():
    nodes = as_nodes(NODES)
    writer = Writer(shape_of(nodes, "float32", kernel_of(get_loss("mse"), None), False, False, True), nodes)
    writer.source()
    steps = [instruction.text.removeprefix("bpx::") for instruction in writer.tape.instructions]
    assert steps == [*FORWARD.strip().splitlines(), *BACKWARD.strip().splitlines()]
