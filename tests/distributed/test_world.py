"""Ranks that end, differ, or were never started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ranks import ends, launch, needs_mpi, output, started

from backprop_xp import Net, distributed, threads

START = """
import os, signal, sys, time
import numpy as np
from backprop_xp import Net, distributed
net = Net((3, 4, 2), rng=0, backend="numpy", loss="mse")
x, y = np.ones((64, 3)), np.ones((64, 2))
"""


def told(stderr):
    """The sentence of this package; another rank may have come to say the same on a busy machine."""
    lines = [line for line in stderr.splitlines() if line.startswith("backprop_xp: rank")]
    assert len({line.partition(" ends all ranks: ")[2] for line in lines}) == 1, stderr
    return lines[0]


def told_at_all(stderr):
    """Whether mpiexec has read who was killed, before it left, as it may not on a busy machine."""
    return "backprop_xp: rank" in stderr


@needs_mpi
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_raises_ends_all(rank):
    code = START + "def give_up(net, epoch):\n    if world.rank == int(sys.argv[1]): raise OSError('no more')\n"
    code += "with distributed.world() as world:\n    net.fit(x, y, epochs=9**9, callbacks=[give_up], world=world)"
    said = ends(3, code, rank)
    assert told(said) == f"backprop_xp: rank {rank} of 3 ends all ranks: OSError: no more"
    assert "in give_up" in said  # where it was


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on_from_its_checkpoint(rank, tmp_path):
    code = START + "def die(net, epoch):\n    if epoch.number == 7 and world.rank == int(sys.argv[2]):\n"
    code += "        os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "with distributed.world() as world:\n    net.fit(x, y, epochs=9, batch_size=16, callbacks=[die], "
    code += "checkpoint=sys.argv[1], checkpoint_every=3, resume=True, world=world)\n"
    code += "    if not world.rank: print(net.parameters[0].data.tobytes().hex())"
    said = ends(2, code, tmp_path / "run", rank)
    assert not told_at_all(said) or re.search(rf"rank {rank}( of 2 ends all ranks: it was killed|, which)", told(said))
    assert list((tmp_path / "run").glob("checkpoint-*.npz"))
    assert output(3, code, tmp_path / "run", -1) == output(1, code, tmp_path / "whole", -1)


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_rank_that_is_killed_is_named(rank, name):
    code = START + "with distributed.world() as world:\n    world.hear('')\n"
    code += f"    if world.rank == {rank}: os.kill(os.getpid(), signal.{name})\n    world.hear('')"
    said = next(filter(told_at_all, (ends(3, code) for _ in range(3))))
    named = rf"backprop_xp: rank {rank} of 3 ends all ranks: it was killed( by {name}|)\b"
    # mpiexec may have ended others before the watcher looked
    assert re.match(named, told(said)) or re.search(rf"unless it was rank .*\b{rank}\b", told(said))


@needs_mpi
@pytest.mark.parametrize(
    "death, said",
    [
        ("raise OSError('no data')", "rank 1 of 3 ends all ranks: OSError: no data"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "Killed (signal 9)"),
    ],
)
def test_a_rank_that_dies_before_its_world_ends_all(death, said):
    code = START + f"if os.environ['PMI_RANK'] == '1': {death}\nwith distributed.world() as world: time.sleep(3600)"
    assert said in ends(3, code)


@needs_mpi
def test_an_exception_after_a_world_ends_all():
    code = START + "with distributed.world() as world: pass\n"
    code += "if world.rank == 1: raise OSError('late')\nwith distributed.world(): time.sleep(3600)"
    assert told(ends(2, code)) == "backprop_xp: rank 1 of 2 ends all ranks: OSError: late"


@needs_mpi
def test_ranks_out_of_memory_say_so():
    code = START + "with distributed.world() as world:\n"
    code += "    np.empty(1 << 60, np.uint8) if world.rank else world.hear('')"
    assert "rank 1 of 2 ends all ranks: MemoryError: Unable to allocate 1.00 EiB" in told(ends(2, code))


def runs(process):
    """Whether the process of this name is there, and isn't just a name that nobody has asked for yet."""
    try:
        return (Path("/proc") / process.name / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_mpi
def test_control_c_ends_all(tmp_path):
    code = START + "def note(net, epoch): open(f'{sys.argv[1]}/{os.getpid()}', 'w').close()\n"
    code += "with distributed.world() as world:\n    net.fit(x, y, epochs=9**9, callbacks=[note], world=world)"
    with started(2, "-c", code, tmp_path) as process:
        while len(list(tmp_path.iterdir())) < 2 and process.poll() is None:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    deadline = time.monotonic() + 60
    while any(map(runs, tmp_path.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_mpi
def test_nobody_watches_ranks_that_are_through():
    code = START + "with distributed.world() as world: watcher = world._watcher\n"
    code += "if world.rank == 0:\n    try: os.kill(watcher, 0)\n    except ProcessLookupError: print('gone')"
    assert output(2, code) == ("gone\n" if hasattr(os, "pidfd_open") else "")


@needs_mpi
@pytest.mark.parametrize(
    "change, said",
    [
        ("x = x[:60]; y = y[:60]", "ranks differ in x: float64 (64, 3)"),
        ("x = x.astype('f4')", ""),  # brought to the net's dtype
        ("y = y.copy(); y[63, 1] = 2", "ranks differ in y: float64 (64, 2)"),
        ("y = y.astype('i8')", ""),
        ("net.weights[1].data[0, 0] += 1", "ranks differ in the net's W1: float64 (2, 4)"),
        ("epochs = 3", "ranks differ in epochs: 2 on rank 0, 3 on rank 1"),
        ("seed = 5", "ranks differ in the seed: 0 on rank 0, 5 on rank 1"),
    ],
)
def test_ranks_that_differ_are_refused_at_the_start(change, said):
    code = START + f"epochs, seed = 2, 0\nif os.environ['PMI_RANK'] == '1':\n    {change}\n"
    code += "with distributed.world() as world:\n    net.fit(x, y, epochs=epochs, seed=seed, world=world)"
    if not said:
        output(2, code)
    else:
        assert said in told(ends(2, code))


@needs_mpi
def test_other_versions_are_refused_at_the_start():
    code = START + "import backprop_xp.distributed.alike as alike\n"
    code += "if os.environ['PMI_RANK'] == '1': alike.np.__version__ = '0.1'\nwith distributed.world(): pass"
    assert "ranks differ in the version of NumPy:" in told(ends(2, code))


@needs_mpi
@pytest.mark.parametrize(
    "code, said",
    [
        ("net.loss_and_grad(x + world.rank, y, world=world)", "ranks differ in x: float64 (64, 3)"),
        (
            "net.loss_and_grad(x, y, world=world) if world.rank else None",
            "rank 0 is about to end, and rank 1 to compare what they were given",
        ),
        (
            "net.fit(([(x, y)] * (1 + world.rank)), world=world)",
            "ranks differ in",
        ),
    ],
)
def test_calls_that_differ_end_all(code, said):
    assert said in told(ends(2, START + f"with distributed.world() as world:\n    {code}"))


@needs_mpi
def test_a_callback_of_one_rank_ends_the_run_of_all():
    code = START + "with distributed.world() as world:\n"
    code += "    stop = lambda net, epoch: world.rank == 1 and epoch.number == 2\n"
    code += "    history = net.fit(x, y, epochs=9, callbacks=[stop], seed=None, world=world)\n"
    code += "    world.agree({'what it came to': f'{history.stopped} {history.seed}'})\n"
    code += "    if world.rank == 0: print(len(history.epochs), history.stopped)"
    assert output(2, code) == "2 a callback asked for it\n"


@needs_mpi
def test_train_writes_the_bits_of_one_rank(tmp_path):
    def model(ranks):
        path = tmp_path / f"{ranks}.safetensors"
        files = ["--model", path, "--plot", tmp_path / f"{ranks}.png"]
        run = launch(ranks, "-m", "backprop_xp", "train", "--data", "iris", "--epochs", 3, *files)
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("model in") == 1
        return path.read_bytes()

    assert model(1) == model(2)


@needs_mpi
def test_train_says_once_what_is_wrong(tmp_path):
    run = launch(2, "-m", "backprop_xp", "train", "--data", tmp_path / "none.csv")
    assert run.returncode == 1 and told(run.stderr).endswith("none.csv: No such file or directory")


def test_without_mpiexec_it_is_a_world_of_one():
    code = "import sys; sys.modules['mpi4py'] = None\nfrom backprop_xp import distributed\n"
    code += "with distributed.world() as world: print(world.rank, world.size, world.hear('a'), distributed.launched())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "0 1 a 0\n", run.stderr


def test_mpiexec_without_mpi4py_is_no_world_of_one(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"mpiexec started 2 ranks, which need mpi4py: pip install"):
        distributed.world()


@pytest.mark.parametrize("parts, message", [(0, "parts"), (12, "a power of two, got 12"), (1.5, "parts")])
def test_parts(parts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        distributed.World(None, parts)


def test_a_world_is_used_in_its_block():
    world = distributed.World(None, 64)
    net = Net((3, 2), rng=0, backend="numpy")
    with pytest.raises(RuntimeError, match="with world"):
        net.loss_and_grad(np.ones((40, 3)), world=world)
    with world:
        net.loss_and_grad(np.ones((40, 3)), world=world)


def test_processes_of_one_machine_share_its_processors(monkeypatch):
    monkeypatch.delenv("BACKPROP_XP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setattr(threads, "_processes", 1)
    counts = []
    for processes in (1, 3, 20):
        threads.share(processes)
        counts.append(threads.count())
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: range(4), raising=False)
    assert (*counts, threads.count()) == (8, 2, 1, 4)
