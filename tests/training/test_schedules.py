"""Schedules against PyTorch's, alone and put together."""

import pytest

from backprop_xp.training import Constant, Cosine, StepDecay, WarmUp
from backprop_xp.training.schedules import get_schedule

torch = pytest.importorskip("torch")
lr = torch.optim.lr_scheduler

PAIRS = [
    (Constant(), lambda o: lr.ConstantLR(o, factor=1.0)),
    (StepDecay(3, 0.5), lambda o: lr.StepLR(o, 3, 0.5)),
    (StepDecay(4), lambda o: lr.StepLR(o, 4)),
    (Cosine(20), lambda o: lr.CosineAnnealingLR(o, 20)),
    (Cosine(20, final=0.1), lambda o: lr.CosineAnnealingLR(o, 20, eta_min=0.2)),
    (WarmUp(5), lambda o: lr.LinearLR(o)),
    (WarmUp(7, start=0.1), lambda o: lr.LinearLR(o, 0.1, total_iters=7)),
    (
        WarmUp(5).then(5, Cosine(15)),
        lambda o: lr.SequentialLR(o, [lr.LinearLR(o), lr.CosineAnnealingLR(o, 15)], [5]),
    ),
    (WarmUp(5) * StepDecay(3), lambda o: lr.ChainedScheduler([lr.LinearLR(o), lr.StepLR(o, 3)])),
]


@pytest.mark.filterwarnings("ignore")  # of PyTorch's about its own schedulers
@pytest.mark.parametrize("schedule, reference", PAIRS, ids=[repr(schedule) for schedule, _ in PAIRS])
def test_every_factor_is_that_of_pytorch(schedule, reference):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = reference(optimiser)
    for step in range(20):
        assert 2.0 * schedule(step) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12, abs=1e-12)
        optimiser.step()
        scheduler.step()


def test_the_ends_hold():
    assert Cosine(10, final=0.25)(10) == Cosine(10, final=0.25)(1000) == 0.25
    assert WarmUp(10, start=0.5)(10) == WarmUp(10)(1000) == 1.0
    assert Constant(0.5)(12345) == 0.5


def test_by_name():
    assert get_schedule(None, None)(7) == get_schedule("constant", None)(7) == 1.0
    assert get_schedule("cosine", 40) == Cosine(40)
    assert get_schedule("cosine", 0)(0) == 1.0
    half = lambda step: 0.5  # noqa: E731
    assert get_schedule(half, None) is half


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: get_schedule("cosin", 9), "unknown schedule 'cosin'; did you mean 'cosine'"),
        (lambda: get_schedule("cosine", None), r"give schedule=Cosine\(steps\)"),
        (lambda: Cosine(0), "steps of a schedule must be an integer from 1 on, got 0"),
        (lambda: StepDecay(0), "every of a schedule must be an integer from 1 on, got 0"),
        (lambda: WarmUp(-1), "steps of a schedule must be an integer from 1 on, got -1"),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [3, Cosine])
def test_no_schedule(wrong):
    with pytest.raises(TypeError, match="a schedule is a name or a function of the step"):
        get_schedule(wrong, 9)
