"""Features of values are told where they can be, and never wrong."""

from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.exchange.fx_features import features_of


def test_what_can_be_told():
    alike = [["a", "x"], ["b", "a", "c"], ["y"], ["loose", "other"]]
    sums = {"s": ["a", "b", "y"], "t": ["s", "z"], "u": ["v", "w"]}
    assert features_of(alike, sums, {"c": 3, "t": 12, "y": 2}) == {
        "a": 3, "x": 3, "b": 3, "c": 3, "y": 2, "s": 8, "t": 12, "z": 4,
    }  # fmt: skip
    assert features_of(alike, sums, {"s": 8, "y": 2})["x"] == 3
    assert features_of([], {"s": ["a", "b", "a"]}, {"s": 8, "b": 2})["a"] == 3
    assert "a" not in features_of([], {"s": ["a", "b", "a"]}, {"s": 8, "b": 3})  # none of them is a half
    assert "a" not in features_of([], {"s": ["a", "b"]}, {"s": 8, "b": 9})


@given(st.data())
def test_nothing_else_than_what_is_true(data):
    """From some features of a graph that there is, no others follow."""
    truth = {f"x{i}": data.draw(st.integers(1, 5)) for i in range(3)}
    alike, sums = [], {}
    for i in range(data.draw(st.integers(1, 8))):
        first = data.draw(st.sampled_from(sorted(truth)))
        others = data.draw(st.lists(st.sampled_from(sorted(truth)), max_size=3))
        name = f"n{i}"
        if data.draw(st.booleans()):
            parts = [first, *others]
            sums[name], truth[name] = parts, sum(truth[one] for one in parts)
        else:
            alike.append([name, first, *[other for other in others if truth[other] == truth[first]]])
            truth[name] = truth[first]
    told = {name: truth[name] for name in data.draw(st.sets(st.sampled_from(sorted(truth)), max_size=4))}
    found = features_of(alike, sums, told)
    assert {name: truth[name] for name in found} == found
    assert told.keys() & {*sums, *(one for group in alike for one in group)} <= found.keys()
