"""CuPy's own NVRTC without a device: compile for an architecture, and read what the assembler says of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import pytest

if not os.environ.get("CI"):  # there, what can't be compiled is a failure
    pytest.importorskip("cupy", reason="CuPy is not installed")
from cupy.cuda import nvrtc

#: Turing to Blackwell.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of the device: registers a thread, and bytes of spills and of local memory."""

    registers: int
    spills: int
    stack: int


def compile_for(
    source: str, architecture: int, options: tuple[str, ...] = ("-std=c++17",)
) -> tuple[bytes, dict[str, Resources]]:
    """The device code for sm_``architecture``, and each kernel's resources. Fails with NVRTC's log."""
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    # CuPy appends -ftz=true itself; NVRTC's other defaults are CuPy's too
    always = (f"-arch=sm_{architecture}", "-ftz=true", "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, (*options, *always))
    except nvrtc.NVRTCError:
        pytest.fail(f"sm_{architecture}: {nvrtc.getProgramLog(program)[:3000]}")
    resources, name = {}, ""
    for line in nvrtc.getProgramLog(program).splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, stores, loads = map(int, match.groups())
        elif match := re.search(r"Used (\d+) registers", line):
            resources[name] = Resources(int(match[1]), stores + loads, stack)
    return nvrtc.getCUBIN(program), resources
