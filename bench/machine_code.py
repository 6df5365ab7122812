"""CUDA machine code as NVIDIA's disassembler prints it: its loops, and what kinds of instructions are in them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backprop_xp.toolchain import cuda

#: What an instruction is, by its name up to the first dot. What isn't named is other arithmetic.
KINDS = {
    "fma": ("FFMA", "DFMA", "FFMA2"),
    "add or multiply": ("FADD", "FMUL", "DADD", "DMUL", "FADD2", "FMUL2"),
    "tensor": ("HMMA",),
    "mufu": ("MUFU",),
    "shared load": ("LDS", "LDSM"),
    "shared store": ("STS", "STSM"),
    "global load": ("LDG", "LD", "LDGSTS", "UBLKCP"),
    "global store": ("STG", "ST", "RED", "REDG", "ATOM", "ATOMG"),
    "constant load": ("LDC", "ULDC", "LDCU"),
    "local": ("LDL", "STL"),
    "control": (
        "BRA", "BRX", "BRXU", "JMP", "JMX", "JMXU", "EXIT", "CALL", "RET", "BSSY", "BSYNC", "BREAK", "BAR", "WARPSYNC",
        "YIELD", "NANOSLEEP", "DEPBAR", "LDGDEPBAR", "MEMBAR", "SYNCS", "BPT", "KILL", "UBRA",
    ),
}  # fmt: skip
OTHER = "other arithmetic"
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
PADDING = "NOP"

_LABEL = re.compile(r"^\s*(\.L[\w.$]*):")
_SECTION = re.compile(r"^\s*\.section\s+\.text\.([\w$]+)")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
_WIDTH = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}


@dataclass(frozen=True)
class Instruction:
    """One instruction: where it stands, its name with suffixes, and its operands as text."""

    address: int
    name: str
    operands: str

    @property
    def kind(self) -> str:
        return KIND_OF.get(self.name.partition(".")[0], OTHER)

    @property
    def bytes(self) -> int:
        """What a load or store moves, for one thread."""
        return next((_WIDTH[part] for part in self.name.split(".")[1:] if part in _WIDTH), 4)


def disassembler() -> Path | None:
    """NVIDIA's nvdisasm: of the wheel nvidia-cuda-nvdisasm, on the PATH, or of an installed toolkit."""
    try:
        import nvidia
    except ImportError:
        wheels = []
    else:
        wheels = [path for folder in nvidia.__path__ for path in Path(folder).glob("*/bin/nvdisasm")]
    found = [*wheels, *(Path(path) for path in (shutil.which("nvdisasm"), "/usr/local/cuda/bin/nvdisasm") if path)]
    return next((path for path in found if path.is_file()), None)


def compiled(source: str, architecture: int) -> bytes:
    """The machine code for sm_``architecture``, by CuPy's NVRTC and with its options; no device is needed."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch=sm_{architecture}", *cuda.OPTIONS, *cuda.ADDED))
        return nvrtc.getCUBIN(program) + b"\0"  # CuPy drops the last byte
    except nvrtc.NVRTCError:
        raise ValueError(f"sm_{architecture}: {nvrtc.getProgramLog(program)[:2000]}") from None
    finally:
        nvrtc.destroyProgram(program)


def disassembled(binary: bytes, program: Path) -> str:
    """What nvdisasm prints of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(binary)
        result = subprocess.run([str(program), "-c", str(path)], capture_output=True, text=True, timeout=120)
    if result.returncode != 0:
        raise ValueError(f"nvdisasm failed: {result.stderr.strip()[:300]}")
    return result.stdout


def parse(text: str, kernel: str) -> tuple[list[Instruction], dict[str, int]]:
    """A kernel's instructions in their order, and the addresses that its labels stand for."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    inside = False
    for line in text.splitlines():
        if section := _SECTION.match(line):
            inside = section[1] == kernel
        elif not inside:
            continue
        elif label := _LABEL.match(line):
            waiting.append(label[1])
        elif match := _INSTRUCTION.search(line):
            address = int(match[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting.clear()
            instructions.append(Instruction(address, match[2], match[3].strip()))
    if not instructions:
        raise ValueError(f"the disassembly holds no kernel {kernel}")
    return instructions, labels


def loops(instructions: Sequence[Instruction], labels: dict[str, int]) -> list[list[Instruction]]:
    """From the target of each backward jump to the jump."""
    found = []
    for instruction in instructions:
        if instruction.name.partition(".")[0] != "BRA":
            continue
        target = re.search(r"`\((\.L[\w.$]*)\)", instruction.operands)
        first = labels.get(target[1]) if target else None
        if first is not None and first < instruction.address:  # a jump to itself only fills up the code
            found.append([i for i in instructions if first <= i.address <= instruction.address])
    return found


def main_loop(instructions: Sequence[Instruction], labels: dict[str, int]) -> list[Instruction]:
    """Of the loops that hold at least half as many multiply-adds as any, the smallest."""
    candidates = [(loop, sum(i.kind == "fma" for i in loop)) for loop in loops(instructions, labels)]
    most = max((count for _, count in candidates), default=0)
    if not most:
        raise ValueError("the kernel has no loop with multiply-adds")
    return min((loop for loop, count in candidates if 2 * count >= most), key=len)


def count(instructions: Sequence[Instruction]) -> Counter[str]:
    """How many there are of each kind; padding does not count.

    Beside them, under "global bytes" what global loads bring a thread, and under "shared wavefronts" in how many goes a
    warp's shared loads and stores are served (:func:`wavefronts`).
    """
    counts = Counter(i.kind for i in instructions if i.name != PADDING)
    counts["global bytes"] = sum(i.bytes for i in instructions if i.kind == "global load")
    counts["shared wavefronts"] = sum(wavefronts(i) for i in instructions if i.kind in ("shared load", "shared store"))
    return counts


def wavefronts(instruction: Instruction) -> int:
    """In how many goes, a clock each, shared memory serves a warp's load or store, at the least.

    A go moves 128 bytes: 4 bytes a thread. Wider ones take as many goes as they have times 4 bytes, half as many where
    neighbouring threads read the same address, which is what every thread of a fused kernel does with weights. (Said by
    NVIDIA's engineers in its developer forum; no manual has it. Conflicts of banks come on top.)
    """
    goes = max(1, instruction.bytes // 4)
    return max(1, goes // 2) if instruction.kind == "shared load" else goes
