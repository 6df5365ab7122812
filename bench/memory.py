"""How much memory a step takes beyond its inputs, parameters and libraries: measured in a process of its own.

The process sets everything up, runs a step of one sample so that libraries have made what they keep, and then asks
the system for the peak of its resident memory over one step of the whole batch. Kept workspaces count.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from backprop_xp.bench import contenders
from backprop_xp.bench.cases import Case


def extra_bytes(case: Case, name: str, form: str, threads: int) -> int | None:
    """Peak bytes of one step; None where the system doesn't tell, or the process fails."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    request = json.dumps({"case": asdict(case), "name": name, "form": form, "threads": threads})
    command = [sys.executable, "-m", "backprop_xp.bench.memory", request]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return None
    try:
        return int(result.stdout.split()[-1])
    except (ValueError, IndexError):
        return None


def make(case: Case, name: str, form: str, threads: int) -> contenders.Contender:
    """The contender that a table calls by this name, in a process that is its alone."""
    if name == "JAX":
        return contenders.jax_jit(case, form=form)
    if name.startswith("backprop_xp"):
        return contenders.ours(case, name.partition(" ")[2] or "auto", threads, "numpy")
    import torch

    torch.set_num_threads(threads)
    if name == contenders.COMPILED:
        return contenders.torch_compiled(case, form)
    return contenders.torch_eager(case, form)


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def main(request: str) -> None:
    asked = json.loads(request)
    case = Case.from_json(asked.pop("case"))
    make(case.with_samples(1), **asked).step()
    contender = make(case, **asked)
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")  # forget the peak so far
    contender.step()
    print(max(0, _status("VmHWM") - before))


if __name__ == "__main__":
    main(sys.argv[1])
