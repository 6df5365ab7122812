"""`python -m backprop_xp.bench.profile NAME`: three calls of one case on the GPU, for a profiler to look at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from backprop_xp.bench.cases import ARTICLE, NARROW, Case

CALLS = 3
SMALL = 64  # samples


@dataclass(frozen=True)
class Profiled:
    """A case, and the kernel that most of its time goes to."""

    case: Case
    kernel: str


CASES = {
    "fused": Profiled(ARTICLE.with_samples(1 << 24), "bpx_backprop"),
    "cooperative": Profiled(NARROW.with_samples(1 << 20), "bpx_block"),
}


def main(name: str, arguments: Sequence[str] = ()) -> None:
    case = CASES[name].case.with_samples(SMALL) if "--small" in arguments else CASES[name].case
    net = case.net(backend="cupy", engine=name)
    x = net.backend.asarray(case.arrays()[0], None, "x")
    for _ in range(CALLS):
        loss = net.loss_and_grad(x)
    print(f"{case.name}, {case.samples:,} x {case.dtype}: loss {float(loss):.6g}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
