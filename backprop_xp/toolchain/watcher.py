"""Run as a program, with a process's number and a folder: once that process is no more, delete the folder, and end.

It leads a group of processes, which ends with it.
"""

import os
import shutil
import signal
import sys
import time

EVERY = 0.1  # seconds


def main(parent: int, folder: str) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # a compiler deletes its temporary files
    time.sleep(EVERY)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
