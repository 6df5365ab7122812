"""Two runs in one folder, and folders whose run has died."""

import os
import signal
import textwrap
import threading

import pytest
from runs import fit, names, net, start

from backprop_xp.training import CheckpointError
from backprop_xp.training.lock import Lock, LockedError

HOLD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from backprop_xp.training.lock import Lock
    lock = Lock(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
    """
)


def test_one_at_a_time(tmp_path):
    lock = Lock(tmp_path)
    with pytest.raises(LockedError, match=rf"another run is using it \(process {os.getpid()} on "):
        Lock(tmp_path)
    lock.release()
    assert names(tmp_path) == []
    Lock(tmp_path).release()


def test_the_lock_of_a_dead_process_keeps_nobody_out(tmp_path):
    process = start(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=rf"process {process.pid} on "):
        Lock(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(tmp_path) == ["lock"]
    Lock(tmp_path).release()
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_holds_nor_releases_it(tmp_path):
    lock, (read, write) = Lock(tmp_path), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        lock.release()
        os.read(read, 1)  # until the parent is done
        os._exit(0)
    try:
        with pytest.raises(LockedError):
            Lock(tmp_path)
        lock.release()
        Lock(tmp_path).release()
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_many_threads(tmp_path):
    """At any moment one at most holds it, although each removes the file in the end."""
    holding, most, held = [], [], []

    def work():
        for _ in range(200):
            try:
                lock = Lock(tmp_path)
            except LockedError:
                continue
            holding.append(1)
            most.append(len(holding))
            holding.pop()
            held.append(1)
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and held


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("elsewhere", path), os.mkdir])
def test_something_else_of_that_name(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(CheckpointError, match=r"checkpoints can't be written to .*: "):
        fit(net(), tmp_path)
    assert names(tmp_path) == ["lock"]


def test_a_second_run_is_refused_and_disturbs_nothing(tmp_path):
    alone, first = net(), net()
    fit(alone, tmp_path / "alone")
    folder, refused = tmp_path / "run", []

    def second(made, epoch):
        (folder / "writing-mine").touch()  # as if a checkpoint were just being written
        for resume in (False, True):
            with pytest.raises(
                CheckpointError, match=r"checkpoints can't be written to .*run: another run is using it"
            ):
                fit(net(), folder, resume=resume)
            refused.append(epoch.number)
        assert (folder / "writing-mine").exists()

    fit(first, folder, callbacks=[second])
    assert refused == [1, 1, 2, 2, 3, 3]
    for p, q in zip(alone.parameters, first.parameters):
        assert (p.data == q.data).all()
    fit(net(), folder, resume=True)  # and then it is free
    assert not (folder / "writing-mine").exists()


def test_a_run_that_fails_lets_the_folder_go(tmp_path):
    def fails(net, epoch):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(net(), tmp_path, callbacks=[fails], resume=True)
    with pytest.raises(CheckpointError, match="of another run"):
        fit(net(), tmp_path)
    fit(net(), tmp_path, resume=True)
