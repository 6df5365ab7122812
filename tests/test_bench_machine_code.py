"""Machine code is read right: from text as the disassembler prints it, and from kernels whose counts are known."""

import pytest
from backprop_xp.bench import machine_code

TEXT = """
	.section	.text.other,"ax",@progbits
other:
.text.other:
        /*0000*/                   FFMA R1, R1, R1, R1 ;
	.section	.text.k,"ax",@progbits
        .global         k
k:
.text.k:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   STS.64 [R5], R2 ;
        /*0020*/              @!P0 BRA `(.L_x_0) ;
.L_x_3:
        /*0030*/                   IADD3 R1, R1, -0x158, RZ ;
.L_x_1:
.L_x_2:
        /*0040*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0050*/                   LDG.E R8, desc[UR4][R2.64+0x10]         (*"SpillRefill"*);
        /*0060*/               @P1 FFMA.FTZ R1, R1.reuse, R1, R1 ;
        /*0070*/                   FFMA R1, R1, 0.5, R1 ;
        /*0080*/                   MUFU.EX2 R3, R2 ;
        /*0090*/                   STL [R1+0x11c], RZ                                        (*"SpillRefill"*);
        /*00a0*/                   FADD R1, R1, R1 ;
        /*00b0*/                   HFMA2 R1, -RZ, RZ, 1, 1 ;
        /*00c0*/                   LDS.128 R4, [UR4] ;
        /*00d0*/              @!P2 BRA `(.L_x_1) ;
        /*00e0*/                   STG.E desc[UR4][R2.64], R8 ;
        /*00f0*/               @P0 BRA `(.L_x_3) ;
        /*0100*/                   EXIT ;
.L_x_9:
        /*0110*/                   BRA `(.L_x_9);
        /*0120*/                   NOP;
.L_x_10:
"""


def test_kinds_are_counted():
    instructions, labels = machine_code.parse(TEXT, "k")
    assert len(instructions) == 19
    assert labels[".L_x_1"] == labels[".L_x_2"] == 0x40
    assert ".L_x_10" not in labels
    assert dict(machine_code.count(instructions)) == {
        "fma": 2, "add or multiply": 1, "mufu": 1, "shared load": 1, "shared store": 1, "global load": 2, "global store": 1,
        "constant load": 1, "local": 1, "control": 5, "other arithmetic": 2, "global bytes": 20, "shared wavefronts": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, goes",
    [("LDS", 1), ("LDS.U8", 1), ("LDS.64", 1), ("LDS.128", 2), ("STS", 1), ("STS.64", 2), ("STS.128", 4)],
)
def test_wide_accesses_to_shared_memory_take_several_goes(name, goes):
    assert machine_code.wavefronts(machine_code.Instruction(0, name, "")) == goes


def test_the_main_loop_is_the_inner_one_with_the_multiply_adds():
    found = machine_code.parse(TEXT, "k")
    assert [len(loop) for loop in machine_code.loops(*found)] == [2, 10, 13]
    loop = machine_code.main_loop(*found)
    assert (loop[0].address, loop[-1].address) == (0x40, 0xD0)


def test_what_is_not_there():
    with pytest.raises(ValueError, match="holds no kernel missing"):
        machine_code.parse(TEXT, "missing")
    with pytest.raises(ValueError, match="no loop with multiply-adds"):
        machine_code.main_loop(*machine_code.parse(TEXT, "other"))


KERNEL = """
extern "C" __global__ void known(long long n, const float* __restrict__ x, float* out) {
  float sum = 0;
#pragma unroll 1
  for (long long i = threadIdx.x; i < n; i += blockDim.x) {
    const float4 four = ((const float4*)x)[i];
    float t = four.x, e;
#pragma unroll
    for (int k = 0; k < 9; ++k) t = fmaf(t, four.y, four.z);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(t));
    sum += e * four.w;
    STORE
  }
  out[threadIdx.x] = sum;
}
"""


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("store", ["", "out[i] = t;"])
def test_a_kernel_of_known_counts(architecture, store):
    pytest.importorskip("cupy")
    program = machine_code.disassembler()
    if program is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    binary = machine_code.compiled(KERNEL.replace("STORE", store), architecture)
    instructions, labels = machine_code.parse(machine_code.disassembled(binary, program), "known")
    counts = machine_code.count(machine_code.main_loop(instructions, labels))
    assert counts["fma"] == 10  # nine, and the product that is added
    assert counts["mufu"] == 1
    assert (counts["global load"], counts["global bytes"]) == (1, 16)
    assert counts["global store"] == bool(store)
    assert counts["local"] == counts["shared load"] == counts["shared store"] == 0
    assert machine_code.count(instructions)["global store"] == 1 + bool(store)


def test_a_broken_kernel_is_said_to_be_broken():
    pytest.importorskip("cupy")
    with pytest.raises(ValueError, match=r"(?s)sm_90: .*error"):
        machine_code.compiled("nonsense", 90)


def test_a_damaged_binary_is_said_to_be_damaged():
    program = machine_code.disassembler()
    if program is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    with pytest.raises(ValueError, match="nvdisasm failed"):
        machine_code.disassembled(b"no cubin", program)
