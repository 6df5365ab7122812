"""Systems that lack what is POSIX's: the package is imported, trains, keeps checkpoints and writes files there too."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from backprop_xp.bench import stages

from backprop_xp.toolchain import group
from backprop_xp.training import lock

#: Of the modules os and signal, what Windows has not.
ABSENT = {
    "os": "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fork forkpty getegid geteuid getgid "
    "getloadavg getpgid getpgrp getuid killpg lchown mkfifo pidfd_open register_at_fork sched_getaffinity "
    "sched_setaffinity setsid statvfs sysconf uname wait4",
    "signal": "SIGALRM SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 alarm pthread_kill pthread_sigmask setitimer",
}
#: Modules that Windows has not, and packages that no import of ours may need.
BLOCKED = ("fcntl", "grp", "pwd", "resource", "termios", "torch", "mpi4py", "jax", "cupy")
PROGRAM = f"""
import asyncio, ctypes, importlib, multiprocessing, os, pathlib, pkgutil, platform, shutil, signal, ssl, subprocess, sys
import tempfile, threading, xml.sax
import matplotlib.pyplot, numpy, pandas, sklearn.model_selection, sklearn.neural_network, threadpoolctl

platform.system = lambda: "Windows"
for module, names in {ABSENT!r}.items():
    for name in names.split():
        vars(sys.modules[module]).pop(name, None)
sys.modules |= dict.fromkeys({BLOCKED!r})

import backprop_xp
from backprop_xp import bench, cli

for package in (backprop_xp, bench):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith(("__main__", "test_throughput")):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                assert error.name in {BLOCKED[5:]!r}, (found.name, error)

folder = sys.argv[1]
x = numpy.random.default_rng(0).normal(size=(40, 3))
net = backprop_xp.Net((3, 4, 1), loss="mse", init="glorot_uniform", rng=0, backend="numpy")
losses = net.fit(x, x[:, :1], epochs=3, checkpoint=os.path.join(folder, "run"), resume=True)
assert os.path.exists(os.path.join(folder, "run"))
pandas.DataFrame(x, columns=list("aby")).to_csv(os.path.join(folder, "t.csv"), index=False)
os.chdir(folder)
assert cli.main(["train", "--data", "t.csv", "--target", "y", "--epochs", "2"]) == 0
assert cli.main(["train", "--data", "t.csv", "--target", "y", "--epochs", "2", "--force"]) == 0
assert cli.main(["predict", "t.safetensors", "t.csv", "--output", "answers.csv"]) == 0
assert cli.main(["info"]) == 0 and cli.main(["cache"]) == 0
print("done")
"""


def test_a_system_with_nothing_of_posix(tmp_path):
    for package in ("matplotlib", "pandas", "sklearn", "safetensors"):
        pytest.importorskip(package)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKPROP_XP_")}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment | {"MPLBACKEND": "agg"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")


class TestLock:
    def test_by_the_calls_of_windows(self, monkeypatch, tmp_path):
        locked = set()

        def locking(file, how, count):
            key = os.fstat(file).st_ino
            if key in locked:
                raise PermissionError(13, "Permission denied")
            assert (os.lseek(file, 0, os.SEEK_CUR), how, count) == (lock.FAR, "no waiting", 1)
            locked.add(key)

        monkeypatch.setattr(lock, "fcntl", None)
        monkeypatch.setattr(lock, "msvcrt", SimpleNamespace(LK_NBLCK="no waiting", locking=locking))
        held = lock.Lock(tmp_path)
        assert held.certain
        with pytest.raises(lock.LockedError, match=f"process {os.getpid()} on "):
            lock.Lock(tmp_path)
        held.release()

    def test_without_any_calls_for_it(self, monkeypatch, tmp_path):
        monkeypatch.setattr(lock, "fcntl", None)
        monkeypatch.setattr(lock, "msvcrt", None)
        held = lock.Lock(tmp_path)
        assert not held.certain
        held.release()
        assert not list(tmp_path.iterdir())


def test_a_command_is_ended_without_groups_of_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(group, "GROUPS", False)
    monkeypatch.delattr(os, "killpg")
    running = group.Group(tmp_path)
    process = running.start((sys.executable, "-c", "import time; time.sleep(60)"), dict(os.environ))
    running.end()
    assert process.returncode


def test_stages_end_without_groups_of_processes(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stages._end([process])
    assert process.returncode
