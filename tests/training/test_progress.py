"""The progress line: in a terminal, and only there."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap

import numpy as np
import pytest

from backprop_xp import Net

PROGRAM = textwrap.dedent(
    """
    import sys
    {prepare}
    import numpy as np
    from backprop_xp import Net
    net = Net((3, 2), loss="mse", rng=0, backend="numpy")
    net.fit(np.ones((40, 3)), np.ones((40, 2)), epochs=3, batch_size=8{options})
    """
)


def in_a_terminal(prepare="", options=""):
    """What a program that trains writes to a terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    program = PROGRAM.format(prepare=prepare, options=options)
    command = [sys.executable, "-W", "ignore", "-c", program]  # without a compiler there is a warning
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    text = b""
    try:
        while block := os.read(leader, 4096):
            text += block
    except OSError:  # how Linux says that nobody holds the other end
        pass
    os.close(leader)
    assert process.wait(60) == 0, text
    return text.decode()


def test_quiet_where_there_is_no_terminal(capfd):
    Net((3, 2), loss="mse", rng=0).fit(np.ones((40, 3)), np.ones((40, 2)), epochs=3, batch_size=8)
    assert capfd.readouterr() == ("", "")


def test_a_bar_with_tqdm():
    pytest.importorskip("tqdm")
    text = in_a_terminal()
    assert "15/15" in text
    assert re.search(r"loss [\d.e-]+, [\d,]+ samples/s", text)


def test_a_plain_line_without_it():
    text = in_a_terminal(prepare="sys.modules['tqdm'] = None")
    assert re.search(r"step 15/15: loss [\d.e-]+, [\d,]+ samples/s", text)
    assert text.endswith("\n")


def test_switched_off():
    assert in_a_terminal(options=", progress=False") == ""


def test_switched_on(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    net = Net((3, 2), loss="mse", rng=0)
    net.fit([(np.ones((8, 3)), np.ones((8, 2)))] * 5, progress=True)
    assert re.search(r"step 5: loss .*samples/s", capfd.readouterr().err)
