"""The same C on other machines: compilers, optimisation levels, sanitizers, Arm64 and Cortex-M, all to the last bit.

tests/c/run_case.c runs a case that this file writes; what it answers is compared with the oracle's. Memory there is
exactly as long, and aligned no better, than ppn.h asks for, so the sanitizers see every access beyond. A processor
without AVX-512 runs what is written for it with each instruction in plain C (tests/c/avx512_in_c.h). Arm64 is QEMU's,
where tests/c/variants.c also compares what is in no case. The Cortex-M0+ is an emulated one (unicorn); it would let
unaligned accesses pass where real ones fault, so a hook looks for them. A Cortex-M4 with its floating point registers,
which compilers use for integers too, is another (QEMU).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, Outputs, Spec, any_spec
from numpy.typing import NDArray

from firmware.tools import natmod
from picopinn import kernels
from picopinn.device.base import Rows
from picopinn.network import ACTIVATIONS, MODES, Chain, Precision, Program, Stage, stream_count
from picopinn.reference import (
    Reference,
    cosine_ratio,
    sine_ratio,
    sine_table,
    tanh_ratio,
    tanh_table,
)
from picopinn.smx import blocks_of

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels_c"
FFI = KERNELS / "ffi"
DRIVER = ROOT / "tests" / "c" / "run_case.c"
VARIANTS = ROOT / "tests" / "c" / "variants.c"
START = ROOT / "tests" / "c" / "cortex_m4.c"
SOURCES = sorted((KERNELS / "src").glob("*.c"))
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wcast-align", f"-I{KERNELS / 'include'}"]
CASES = range(40)  # of the endless list in cases.py; extremes are among them
SMALL = range(12)  # enough for a slow machine

INSTALL_GCC = "apt-get install gcc"
INSTALL_ARM = "apt-get install gcc-arm-none-eabi"
INSTALL_QEMU = "apt-get install qemu-user"
INSTALL_ZIG = "pip install ziglang"

Words = Sequence[int]
Need = Callable[[str, str], list[str]]


# ---- cases as bytes


def _words(*words: int) -> bytes:
    return np.array(words, dtype=np.int64).astype("<i4").tobytes()


def _array(array: NDArray[Any], kind: str) -> bytes:
    data = np.ascontiguousarray(array).astype(kind).tobytes()
    return _words(len(data)) + data + bytes(-len(data) % 4)


def _stage_words(stage: Stage) -> Words:
    chain = -1 if stage.chain is None else stage.chain
    return stage.rows, stage.cols, stage.panels, stage.expand, stage.closes, chain


def _chain_words(chain: Chain) -> Words:
    modes, ranks = chain.modes, chain.ranks
    return len(modes), *modes, *[0] * (4 - len(modes)), *ranks, *[0] * (5 - len(ranks))


def _description(program: Program, directions: int, *rest: int) -> list[Words]:
    """The head of a case, its stages and its chains."""
    p = program.precision
    widths = p.weights, p.activations, p.base, p.gradients, p.inputs
    names = ACTIVATIONS.index(program.activation), MODES.index(program.mode)
    head = (len(program.stages), len(program.chains), *names, *widths, directions, *rest)
    return [head, *map(_stage_words, program.stages), *map(_chain_words, program.chains)]


def _rows_as_given(case: Case) -> Rows | None:
    """Direction rows as ppn_batch wants them: for difference d_1, -d_1, d_2, ..."""
    along = case.along
    if along is None or case.program.mode != "difference":
        return along
    pairs = np.stack([along.mantissas, -along.mantissas], axis=1)
    return Rows(pairs, np.repeat(along.exponents, 2, axis=0))


def as_bytes(case: Case) -> bytes:
    count = len(case.points.exponents)
    rest = count, count // 2, case.scaling.limit, case.seed, case.step, case.first
    rows = _rows_as_given(case) or Rows(np.empty(0, np.int16), np.empty(0, np.int8))
    text = b"".join(_words(*w) for w in _description(case.program, case.directions, *rest))
    text += _array(case.scaling.exponents, "<i2")
    for part in (case.weights, case.points, rows, case.cotangents):
        text += _array(part.mantissas, "<i2") + _array(part.exponents, "i1")
    return text


def answer(outputs: Outputs) -> bytes:
    """What run_case must answer."""
    arrays = [outputs["flags"], *(array for name, array in outputs.items() if name != "flags")]
    return _words(0) + b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays)


@cache
def known(seed: int) -> tuple[bytes, bytes]:
    """A case and its answer."""
    case = any_spec(seed).case()
    return as_bytes(case), answer(case.run(Reference()))


# ---- hosts


def _run(command: Sequence[str | Path], **options: Any) -> bytes:
    done = subprocess.run([str(word) for word in command], capture_output=True, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr.decode(errors='replace')[-3000:]}"
    return done.stdout


def _assert_all_cases(program: Path, seeds: Sequence[int], *emulator: str) -> None:
    file = program.with_suffix(".case")
    for seed in seeds:
        given, expected = known(seed)
        file.write_bytes(given)
        assert _run([*emulator, program, file]) == expected, any_spec(seed)


HOSTS = {
    **{f"gcc -O{level}": ("gcc", INSTALL_GCC, [f"-O{level}"]) for level in (0, 2, 3)},
    "gcc -funsigned-char": ("gcc", INSTALL_GCC, ["-O1", "-funsigned-char"]),
    "clang -O0": ("ziglang", INSTALL_ZIG, ["-O0", "-fsanitize=undefined", "-fsanitize-trap=undefined"]),
    **{
        f"clang -O{n}": ("ziglang", INSTALL_ZIG, ["-O2", "-Xclang", f"-O{n}", "-fno-sanitize=all"])
        for n in (1, 2, 3)  # zig itself knows but one level
    },
}


@pytest.mark.parametrize("name", HOSTS)
def test_host_compilers(name: str, need: Need, tmp_path: Path) -> None:
    tool, fix, flags = HOSTS[name]
    compiler = [*need(tool, fix), *(["cc"] if tool == "ziglang" else [])]
    program = tmp_path / "run_case"
    _run([*compiler, *FLAGS, *flags, DRIVER, *SOURCES, "-o", program])
    _assert_all_cases(program, CASES)


# ---- sanitizers

AVX2 = "-mavx2", "-mbmi", "-mbmi2", "-mlzcnt"
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "vnni")]
IN_C = ["-include", str(ROOT / "tests" / "c" / "avx512_in_c.h"), "-Wno-psabi", "-O0"]  # where a processor has none
SANITIZED = {  # the instruction sets of kernels_c/ffi, here by compiler flags
    "portable": [],
    "avx2": ["-DPPN_SIMD=2", *AVX2],
    "avx512": ["-DPPN_SIMD=3", *AVX2, *(AVX512 if "avx512" in kernels.variants() else IN_C)],
}


@pytest.fixture(scope="module")
def sanitized(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def build(variant: str) -> Path:
        gcc, program = need("gcc", INSTALL_GCC), tmp_path_factory.mktemp(variant) / "run_case"
        checks = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        _run([*gcc, *FLAGS, *checks, *SANITIZED[variant], DRIVER, *SOURCES, "-o", program])
        return program

    return build


@pytest.mark.parametrize("variant", SANITIZED)
def test_sanitizers_find_nothing(variant: str, sanitized: Callable[[str], Path]) -> None:
    if variant != "portable" and "avx2" not in kernels.variants():
        pytest.skip("this processor has no AVX2")  # in CI too: no command installs another
    _assert_all_cases(sanitized(variant), CASES)


# ---- Arm64

QEMU_ARM64 = "qemu-aarch64"
ARM64 = ["-target", "aarch64-linux-musl", "-O2", "-Xclang", "-O1"]
TRAPS = ["-fsanitize=undefined", "-fsanitize-trap=undefined"]
NEON = ["-DPPN_VARIANT=neon", "-include", str(FFI / "names.h")]  # the names of ppn.h mean that variant's


@pytest.fixture(scope="module")
def arm64(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a driver with the host's variants, for QEMU_ARM64."""
    command = [*need("ziglang", INSTALL_ZIG), "cc", *ARM64, *TRAPS, *FLAGS, f"-I{FFI}"]
    need(QEMU_ARM64, INSTALL_QEMU)
    folder = tmp_path_factory.mktemp("arm64")
    objects = [folder / f"{name}.o" for name in ("neon", "portable", "dispatch")]
    for made in objects:
        _run([*command, "-c", FFI / f"{made.stem}.c", "-o", made])

    @cache
    def build(driver: Path, *options: str) -> Path:
        program = folder / driver.stem
        _run([*command, *options, driver, *objects, "-o", program])
        return program

    return build


def test_a_step_on_arm64(arm64: Callable[..., Path]) -> None:
    _assert_all_cases(arm64(DRIVER, *NEON), CASES, QEMU_ARM64)


def test_extremes_on_arm64(arm64: Callable[..., Path], tmp_path: Path) -> None:
    program, file = arm64(DRIVER, *NEON), tmp_path / "case"
    for spec in ASSEMBLY:
        case = spec.case()
        file.write_bytes(as_bytes(case))
        assert _run([QEMU_ARM64, program, file]) == answer(case.run(Reference())), spec


def test_products_and_encoding_on_arm64(arm64: Callable[..., Path]) -> None:
    assert _run([QEMU_ARM64, arm64(VARIANTS)]) == b"1\n"  # one variant besides the portable one


# ---- plans


BATCH = 8, 1, 1, 0, 8, 1, 2, 3  # input width, directions, count, split, limit, seed, step, first
EDGES = (0, 1, 2, 3, 4, 5, 16, 17, 63, 255, 256, 1024, 1025, 4095, 4096, 4097, 16384, 32767, 32768, 65535)
TOO_LARGE = 5  # the last ppn_status
OPEN = (2, 3, 4, 5, 6, 7, 9)  # words of the head that ppn_plan() checks; the others count what follows or are a batch's


def _random_description(rng: np.random.RandomState) -> list[list[int]]:
    """Nothing but random bytes."""
    stages, chains = (int(n) for n in rng.randint(0, 5, 2))
    head = [stages, chains, *(int(b) for b in rng.randint(0, 256, 6)), *BATCH]
    return [head, *[[int(w) for w in rng.randint(0, 1 << 16, n)] for n in (*[6] * stages, *[10] * chains)]]


def _bent_description(rng: np.random.RandomState, seed: int) -> list[list[int]]:
    """A good one with up to three words replaced, and sometimes a chain that no stage uses."""
    program = any_spec(seed).case().program
    words = [list(w) for w in _description(program, int(rng.randint(4)), *BATCH[2:])]
    words[0][8] = BATCH[0]
    if rng.randint(4) == 0:
        words.append([int(w) for w in rng.randint(0, 1 << 16, 10)])
        words[0][1] += 1
    for _ in range(rng.randint(4)):
        part = words[rng.randint(len(words))]
        places = OPEN if part is words[0] else range(len(part))
        value = EDGES[rng.randint(len(EDGES))] if rng.randint(2) else rng.randint(256)
        part[places[rng.randint(len(places))]] = int(value)
    return words


def _long_description(stages: int) -> list[list[int]]:
    """Many stages of one block."""
    head = [stages, 0, 0, 3, 8, 8, 8, 8, *BATCH]
    return [head, *[[4, 4, 1, 0, 1, -1]] * stages]


def _least(words: list[list[int]]) -> tuple[int, ...]:
    """Exact parameter blocks and accumulators, and least bytes of gradients and tape, of an accepted description."""
    head, stages = words[0], words[1 : 1 + words[0][0]]
    chains = [(w[0] & 0xFFFF, [x & 0xFFFF for x in w[1:5]], [x & 0xFFFF for x in w[5:]]) for w in words[1 + head[0] :]]
    blocks = accumulators = gradients = tape = 0
    for index, (rows, cols, panels, expand, closes, chain) in enumerate(stages):
        matrix = blocks_of(rows) * blocks_of(cols)
        outs, ins = (panels * blocks_of(n) for n in ((cols, rows) if expand & 255 else (rows, cols)))
        if chain & 0x8000 or chain < 0:
            blocks += matrix
        else:
            modes, mode, rank = chains[chain & 0xFFFF]
            cores = Chain(tuple(mode[:modes]), tuple(rank[: modes + 1]))
            shapes = [cores.matrix_shape(k) for k in range(modes)]
            blocks += sum(blocks_of(r) * blocks_of(c) for r, c in shapes)
        closing = bool(closes & 255)
        blocks += outs * closing
        accumulators += 1 + closing
        gradients += matrix * 64 + outs * 16 * closing
        tape += stream_count(MODES[head[3] & 255], head[9] & 0xFFFF) * ins * 17 * (index > 0)
    return blocks, accumulators, gradients, tape


def _assert_plans(program: Path, file: Path, descriptions: list[list[list[int]]]) -> Counter[int]:
    """ppn_plan() refuses, or answers regions that are large enough and in which a step runs."""
    file.write_bytes(b"".join(_words(*w) for words in descriptions for w in words))
    lines = _run([program, "plan", file]).decode().splitlines()
    assert len(lines) == len(descriptions)
    for line, words in zip(lines, descriptions, strict=True):
        status, *sizes = map(int, line.split())
        assert 0 <= status <= TOO_LARGE
        if status == 0:
            blocks, accumulators, gradients, tape = _least(words)
            assert (sizes[0], sizes[1]) == (blocks, accumulators), words
            assert sizes[3] >= gradients and sizes[4] >= tape, words
    return Counter(int(line.split()[0]) for line in lines)


def test_plan_takes_any_bytes(sanitized: Callable[[str], Path], tmp_path: Path) -> None:
    rng = np.random.RandomState(1)
    descriptions = [_random_description(rng) for _ in range(500)]
    descriptions += [_bent_description(rng, seed) for seed in range(1500)]
    found = _assert_plans(sanitized("portable"), tmp_path / "plans", descriptions)
    assert set(found) >= {0, 1, 2, 3, 4}  # all answers but TOO_LARGE occur
    assert found[0] > 300


@pytest.mark.parametrize("stages", [1000, 30000, 40000])
def test_plan_of_very_many_stages(stages: int, sanitized: Callable[[str], Path], tmp_path: Path) -> None:
    _assert_plans(sanitized("portable"), tmp_path / "plans", [_long_description(stages)])


def test_plan_of_very_large_stages(sanitized: Callable[[str], Path], tmp_path: Path) -> None:
    """Regions above 4 GiB must not wrap around."""
    large = [[4096, 4096, 1, 0, 1, -1]]
    descriptions = []
    for stages, directions in product((1, 60, 80), (0, 9, 65535)):
        head = [stages, 0, 0, 3, 16, 16, 16, 16, 16, directions, *BATCH[2:]]
        descriptions.append([head, *large * stages])
    found = _assert_plans(sanitized("portable"), tmp_path / "plans", descriptions)
    assert set(found) == {0, TOO_LARGE}


# ---- Cortex-M0+ and M4

CODE, MEMORY, STOP = 0x10000000, 0x20000000, 0x08000000
STRING_H = "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\nvoid *memset(void *, int, size_t);\n"
LINK = f"""SECTIONS {{
    . = {CODE:#x};
    .text : {{ *(.text*) *(.rodata*) }}
    . = {MEMORY:#x};
    .data : {{ *(.data*) *(.bss*) *(COMMON) }}
    /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.comment) *(.note*) }}
}}
"""
ZIG = ["-target", "thumb-freestanding-eabi", "-fno-sanitize=all"]
ARMS = {
    "gcc": ("arm-none-eabi-gcc", INSTALL_ARM, ["-mcpu=cortex-m0plus", "-mthumb"], ["-nostdlib", "-lgcc"]),
    "clang": ("ziglang", INSTALL_ZIG, [*ZIG, "-mcpu=cortex_m0plus"], []),
    "gcc m4": ("arm-none-eabi-gcc", INSTALL_ARM, ["-mcpu=cortex-m4", "-mthumb"], ["-nostdlib", "-lgcc"]),
    "clang m4": ("ziglang", INSTALL_ZIG, [*ZIG, "-mcpu=cortex_m4"], []),
}
INTEGER_HELPERS = re.compile(  # no libc but these two, and no helper for floating point
    r"ppn_\w+|(__aeabi_)?mem(cpy|set|clr)[48]?|__aeabi_u?idiv(mod)?|__aeabi_u?ldivmod|__aeabi_l(mul|lsl|lsr|asr)"
    r"|__gnu_thumb1_case_\w+|__clzsi2"
)


class Bare:
    """The kernels and a driver, built for a Cortex-M0+ or M4; ``entry`` is the function that runs."""

    def __init__(
        self,
        command: list[str],
        flags: list[str],
        libraries: list[str],
        folder: Path,
        driver: Path = DRIVER,
        entry: str = "bare_case",
    ) -> None:
        self.entry = entry
        self.m4 = any("m4" in flag for flag in flags)
        folder.joinpath("string.h").write_text(STRING_H)
        folder.joinpath("link.ld").write_text(LINK)
        compile_ = [*command, *FLAGS, *flags, "-O2", "-ffreestanding", "-fno-builtin", "-fno-unwind-tables"]
        compile_ += ["-isystem", str(folder)]
        self.objects = [folder / f"{source.stem}.o" for source in (*SOURCES, driver)]
        for source, made in zip((*SOURCES, driver), self.objects, strict=True):
            _run([*compile_, "-c", source, "-o", made])
        self.program = folder / "program.elf"
        link = ["-static", f"-Wl,-T,{folder / 'link.ld'}", "-Wl,--build-id=none", f"-Wl,-e,{entry}"]
        _run([*command, *flags, *link, *self.objects, *libraries, "-o", self.program])

    def run(self, case: bytes, skew: int = 0) -> tuple[bytes, list[str]]:
        """The answer to a case, and the unaligned accesses on the way; ``skew`` moves the memory it is given."""
        from unicorn import arm_const as arm

        given, out, arena = (MEMORY + (n << 20) for n in (1, 2, 3))
        registers = {arm.UC_ARM_REG_R0: given, arm.UC_ARM_REG_R1: out, arm.UC_ARM_REG_R2: arena + skew}
        machine, unaligned = self.start(registers, case)
        return bytes(machine.mem_read(out, machine.reg_read(arm.UC_ARM_REG_R0) - out)), unaligned

    def start(self, registers: dict[int, int], given: bytes = b"") -> tuple[Any, list[str]]:
        """The machine after the entry has returned, and the unaligned accesses; ``given`` lies above the stack."""
        import unicorn as uc
        from unicorn import arm_const as arm

        machine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
        machine.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M4 if self.m4 else arm.UC_CPU_ARM_CORTEX_M0)
        machine.mem_map(CODE, 1 << 20, uc.UC_PROT_READ | uc.UC_PROT_EXEC)
        machine.mem_map(MEMORY, 4 << 20)
        machine.mem_map(STOP, 1 << 12)
        self._load(machine)
        unaligned: list[str] = []

        def look(_machine: Any, _access: int, address: int, size: int, _value: int, _data: Any) -> None:
            if address % size:
                unaligned.append(f"{size} bytes at {address:#x}, pc {machine.reg_read(arm.UC_ARM_REG_PC):#x}")

        if not self.m4:  # which may access a word anywhere; and unicorn loses its conditional blocks in such hooks
            machine.hook_add(uc.UC_HOOK_MEM_READ | uc.UC_HOOK_MEM_WRITE, look)
        stack = MEMORY + (1 << 20)  # it grows down
        machine.mem_write(stack, given)
        for register, value in {**registers, arm.UC_ARM_REG_SP: stack, arm.UC_ARM_REG_LR: STOP | 1}.items():
            machine.reg_write(register, value)
        machine.emu_start(self.symbol(self.entry) | 1, STOP)
        return machine, unaligned

    def _load(self, machine: Any) -> None:
        """Put the program into memory."""
        from elftools.elf.elffile import ELFFile

        with self.program.open("rb") as file:
            for segment in ELFFile(file).iter_segments("PT_LOAD"):
                machine.mem_write(segment["p_vaddr"], segment.data())

    def symbol(self, name: str) -> int:
        """The address of a function or global."""
        from elftools.elf.elffile import ELFFile

        with self.program.open("rb") as file:
            return int(ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name(name)[0]["st_value"])


@pytest.fixture(scope="module")
def bare(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bare]:
    @cache
    def build(name: str) -> Bare:
        need("unicorn", "pip install unicorn")
        need("elftools", "pip install pyelftools")
        tool, fix, flags, libraries = ARMS[name]
        command = [*need(tool, fix), *(["cc"] if tool == "ziglang" else [])]
        return Bare(command, flags, libraries, tmp_path_factory.mktemp(name.replace(" ", "-")))

    return build


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("seed", SMALL)
def test_cortex_m(seed: int, name: str, bare: Callable[[str], Bare]) -> None:
    given, expected = known(seed)
    found, unaligned = bare(name).run(given)
    assert unaligned == []
    assert found == expected


QEMU = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]


@pytest.fixture(scope="module")
def cortex_m4(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run_case for the processor of QEMU's mps2-an386, compiled as native modules are."""
    (gcc,), program = need("arm-none-eabi-gcc", INSTALL_ARM), tmp_path_factory.mktemp("m4") / "run_case"
    need("qemu-system-arm", "apt-get install qemu-system-arm")
    options = [*natmod.TARGETS["armv7emsp"].flags.split(), "-Wno-format", "-Os", "--specs=rdimon.specs"]
    _run([gcc, *FLAGS, *options, "-Wl,--section-start=.vectors=0", START, DRIVER, *SOURCES, "-o", program])
    return program


def _in_qemu(program: Path, given: bytes) -> bytes:
    case = program.with_suffix(".case")
    case.write_bytes(given)
    files = ["-semihosting-config", f"enable=on,target=native,arg=run_case,arg={case}", "-kernel", program]
    return _run([*QEMU, *files], timeout=60)


@pytest.mark.parametrize("seed", SMALL)
def test_cortex_m4_as_native_modules(seed: int, cortex_m4: Path) -> None:
    given, expected = known(seed)
    assert _in_qemu(cortex_m4, given) == expected, any_spec(seed)


FULL, SPREAD, EDGE, HUGE = (("full",) * 3, ("spread",) * 3, ("edge",) * 3, ("huge",) * 3)
ASSEMBLY = [  # every way through kernels_c/src/cortexm0.c and cortexm4.c, with extremes
    Spec("tt2"),  # packed pairs, 12 x 8
    Spec("tt2", styles=FULL),
    Spec("ragged", styles=FULL, precision=Precision(8, 8, 8, 8, 8)),
    Spec("ragged", styles=SPREAD, precision=Precision(4, 5, 6, 7, 8)),
    Spec("tt3", styles=HUGE, outputs=5),
    Spec("tt4", styles=EDGE, activation="sine"),
    Spec("dense", precision=Precision(16, 16, 16, 16, 16), styles=FULL),  # 64 bits, in halves
    Spec("tt1", precision=Precision(16, 15, 16, 15, 15), styles=FULL),  # 31 bits
    Spec("ragged", precision=Precision(12, 8, 10, 14, 16), styles=SPREAD),
    Spec("dense", precision=Precision(8, 16, 16, 16, 16), styles=FULL, gradient_exponent=-60),  # shifts to the left
    Spec("dense", styles=FULL, gradient_exponent=8),  # and out of range
    Spec("16x16", layers=2, rank=3, directions=1, microbatches=1),  # 64 packed blocks a row
    Spec("dense", precision=Precision(8, 8, 8, 12, 14), styles=SPREAD, inputs=9),
    Spec("tt2", rank=7),  # packed blocks that do not follow each other
    Spec("16x16", layers=1, rank=5, directions=0, microbatches=1, precision=Precision(8, 12, 12, 12, 16), inputs=9),
]


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("number", range(len(ASSEMBLY)))
def test_cortex_m_assembly(number: int, name: str, bare: Callable[[str], Bare]) -> None:
    case = ASSEMBLY[number].case()
    found, unaligned = bare(name).run(as_bytes(case))
    assert unaligned == []
    assert found == answer(case.run(Reference()))


@pytest.mark.parametrize("number", range(len(ASSEMBLY)))
def test_cortex_m4_assembly_as_native_modules(number: int, cortex_m4: Path) -> None:
    case = ASSEMBLY[number].case()
    assert _in_qemu(cortex_m4, as_bytes(case)) == answer(case.run(Reference()))


def test_the_machine_sees_unaligned_accesses(bare: Callable[[str], Bare]) -> None:
    given, expected = known(SMALL[0])
    found, unaligned = bare("gcc").run(given, skew=2)
    assert found == expected  # unicorn itself takes no offence
    assert unaligned


@pytest.mark.parametrize("name", ARMS)
def test_objects_hold_integers_and_code_alone(name: str, bare: Callable[[str], Bare]) -> None:
    """Neither floating point nor data: the kernels go into a native module, which has no place for either."""
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile

    for made in bare(name).objects[:-1]:  # the last is the driver
        with made.open("rb") as file:
            elf = ELFFile(file)
            for symbol in elf.get_section_by_name(".symtab").iter_symbols():
                if symbol.name and symbol["st_shndx"] == "SHN_UNDEF":
                    assert INTEGER_HELPERS.fullmatch(symbol.name), f"{made.name} wants {symbol.name}"
            for section in elf.iter_sections():
                writable = section["sh_flags"] & SH_FLAGS.SHF_WRITE and section["sh_flags"] & SH_FLAGS.SHF_ALLOC
                assert not (writable and section["sh_size"]), f"{made.name} has {section.name}"


# ---- tables


def _make_tables() -> Any:
    spec = importlib.util.spec_from_file_location("make_tables", KERNELS / "make_tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_current() -> None:
    assert _make_tables().render() == (KERNELS / "src" / "tables.h").read_text()


def test_the_oracle_has_the_same_tables() -> None:
    """It computes them in floating point, the generator in a hundred bits."""
    tables = [tanh_table(), sine_table(), tanh_ratio(), sine_ratio(), cosine_ratio()]
    for (name, made), found in zip(_make_tables().tables().items(), tables, strict=True):
        assert found.tolist() == made, name
