"""Names as they are drawn."""

from backprop_xp import axes


def test_names_are_short_and_no_formulas():
    assert axes.short("$x_1$ and a long rest, 12") == r"\$x_1\$ an...t, 12"
    assert axes.short("a\nb") == "a b" and len(axes.short("a" * 99)) == axes.LONGEST
