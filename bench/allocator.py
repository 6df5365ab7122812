"""Whether memory that was given back stays with the process, which decides how fast steps with large arrays are.

By default glibc hands large blocks back to the system after every step and takes them again in the next one, page by
page: PyTorch's step on a million samples of the article's net then costs 84,000 page faults and runs at about half its
speed. With memory kept there are none. Nobody's users set this, so the benchmark measures every contender both ways.
The setting holds for the rest of a process's life, hence the processes of `worker.py`.
"""

from __future__ import annotations

import ctypes

KEPT, DEFAULT = "kept", "default"

#: Parameters of glibc's mallopt, as in <malloc.h>, and values: never trim the heap; never map a block by itself; one
#: heap for all threads, as those of other threads (JAX computes on such) hold no large blocks and are given back whole.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


def keep() -> str:
    """Keep all memory from now on; returns "", or why that can't be done here. To be called before threads start."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return "the C library has no mallopt"
    refused = [name for name, (parameter, value) in MALLOPT.items() if not mallopt(parameter, value)]
    return f"mallopt refused {', '.join(refused)}" if refused else ""
