"""Cycles of one training step on an emulated RP2040 (one core, everything in SRAM), by what they are spent on.

The kernels are compiled for the Cortex-M0+ with m0/step.c, the step is one of the solver's own, and its gradients are
compared with the host's. Every instruction is stepped by itself and counted where the compiler says it comes from.

    apt-get install gcc-arm-none-eabi; pip install -e '.[test]' rp2040py==1.0.0b1; python benchmarks/m0_cycles.py
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from picopinn import Estimator, Network, Solver
from picopinn.device.base import Gradients, Rows, Scaling
from picopinn.device.local import LocalDevice
from picopinn.estimators import STEPLESS
from picopinn.integer import IntegerEngine
from picopinn.kernels import Plan
from picopinn.network import ACTIVATIONS, MODES, Precision, Program, stream_count
from picopinn.problems import get

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels_c"
MEMORY, STACK = 0x20000000, 0x20042000
FLAGS = ["-std=c11", "-O2", "-g", "-mcpu=cortex-m0plus", "-mthumb", "-ffreestanding", "-nostdlib"]
FLAGS += ["-fno-tree-loop-distribute-patterns"]  # memcpy must not become a call of itself
LINK = f"SECTIONS {{ . = {MEMORY:#x}; .text : {{ *(.text*) *(.rodata*) }} .data : {{ *(.data*) *(.bss*) *(COMMON) }} }}"

Stack = tuple[str, ...]  # functions, innermost first


@dataclass
class Step:
    """What one step sends to the device, and what comes back."""

    scaling: Scaling
    seed: int
    number: int
    passes: list[tuple[Rows, Rows | None, Rows, int]] = field(default_factory=list)
    gradients: Gradients | None = None


class Recorder(LocalDevice):
    """The local device; keeps the last step."""

    weights: Rows
    step: Step

    def load(self, weights: Rows) -> None:
        self.weights = weights
        super().load(weights)

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        self.step = Step(scaling, seed, step)
        super().begin(scaling, seed, step)

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        self.step.passes.append((points, directions, cotangents, first))
        super().backward(points, directions, cotangents, first)

    def gradients(self) -> Gradients:
        self.step.gradients = super().gradients()
        return self.step.gradients


def record(options: argparse.Namespace) -> tuple[Program, Recorder]:
    """The last of a few training steps of poisson2d."""
    network = Network(2, hidden=options.hidden, tt=tuple(map(int, options.tt.split("x"))), rank=options.rank)
    device, estimator = Recorder(1), Estimator(options.estimator)
    engine = IntegerEngine(network, Precision.parse(options.precision), estimator.mode(), device=device)
    solver = Solver(get("poisson2d")(), network, estimator, steps=1000, batch=options.points, engine=engine)
    for _ in range(options.steps):
        solver.step()
    return engine.program, device


# ---- the case as C


def _numbers(kind: str, name: str, values: Any) -> str:
    return f"static const {kind} {name}[] = {{{', '.join(str(int(x)) for x in np.ravel(values))}}};\n"


def _braces(*items: object) -> str:
    return "{" + ", ".join(str(item) for item in items) + "}"


def _rows(name: str, rows: Rows) -> str:
    return _numbers("int16_t", name, rows.mantissas) + _numbers("int8_t", f"{name}_EXPS", rows.exponents)


def case_text(program: Program, device: Recorder) -> str:
    """case.h: the network, the numbers and the sizes of the regions."""
    step, bits = device.step, program.precision
    counts = [len(points.exponents) for points, *_ in step.passes]
    directions = [0 if along is None else len(along.exponents) for _, along, *_ in step.passes]
    sizes = Plan(program, max(directions)).sizes
    stages = [
        _braces(s.rows, s.cols, s.panels, int(s.expand), int(s.closes), -1 if s.chain is None else s.chain)
        for s in program.stages
    ]
    chains = [_braces(len(c.modes), _braces(*c.modes), _braces(*c.ranks)) for c in program.chains]
    network = (
        *(len(program.stages), len(program.chains)),
        *(ACTIVATIONS.index(program.activation), MODES.index(program.mode)),
        *(bits.weights, bits.activations, bits.base, bits.gradients),
    )
    constants = {
        "NETWORK": ", ".join(map(str, network)),
        "INPUTS": bits.inputs,
        "DIRECTIONS": max(directions),
        "LIMIT": step.scaling.limit,
        "SEED": step.seed,
        "STEP": step.number,
        "TAPES": max(counts),
        "OUTS": max(n * stream_count(program.mode, k) for n, k in zip(counts, directions, strict=True))
        * sizes.out_blocks,
        **{name.upper(): getattr(sizes, name) for name in ("weights", "gradients", "tape", "scratch")},
        "PARAMETER_BLOCKS": sizes.parameter_blocks,
        "ACCUMULATORS": sizes.accumulators,
    }
    text = f"static const ppn_stage STAGES[] = {_braces(*stages)};\n"
    text += f"static const ppn_chain CHAINS[] = {_braces(*chains or [_braces(0)])};\n"
    text += _rows("WEIGHTS", device.weights).replace("WEIGHTS_EXPS", "WEIGHT_EXPS")
    text += _numbers("int16_t", "SCALING", step.scaling.exponents)
    passes = []
    for k, (points, along, cotangents, first) in enumerate(step.passes):
        text += _rows(f"POINTS{k}", points) + _rows(f"COTANGENTS{k}", cotangents)
        text += _rows(f"ROWS{k}", along) if along is not None else ""
        names = [f"POINTS{k}", f"ROWS{k}" if along is not None else "0", f"COTANGENTS{k}"]
        exps = [name if name == "0" else f"{name}_EXPS" for name in names]
        passes.append(_braces(counts[k], first, directions[k], *names, *exps))
    constants["PASSES"] = ", ".join(passes)
    return text + "".join(f"#define CASE_{name} {value}\n" for name, value in constants.items())


# ---- the machine


class Machine:
    """A program for the bare RP2040, compiled, loaded and stepped."""

    def __init__(self, folder: Path, main: str) -> None:
        self.program = folder / "step.elf"
        (folder / "link.ld").write_text(LINK)
        sources = [*sorted((KERNELS / "src").glob("*.c")), ROOT / "benchmarks" / "m0" / main]
        command = ["arm-none-eabi-gcc", *FLAGS, f"-I{KERNELS / 'include'}", f"-I{KERNELS / 'src'}", f"-I{folder}"]
        command += [*map(str, sources), "-Wl,-T," + str(folder / "link.ld"), "-Wl,-e,start", "-o", str(self.program)]
        subprocess.run([*command, str(ROOT / "benchmarks" / "m0" / "memory.c"), "-lgcc"], check=True)
        self._open()

    def _open(self) -> None:
        from elftools.elf.elffile import ELFFile

        try:
            from rp2040py.rp2040 import RP2040
        except ImportError:
            raise SystemExit("this runs in an emulator: pip install rp2040py==1.0.0b1") from None

        self.chip = RP2040()
        with self.program.open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_LOAD"):
                data, at = segment.data(), segment["p_vaddr"]
                for k in range(0, len(data) - len(data) % 4, 4):
                    self.chip.write_uint32(at + k, int.from_bytes(data[k : k + 4], "little"))
                for k in range(len(data) - len(data) % 4, len(data)):
                    self.chip.write_uint8(at + k, data[k])
            text = elf.get_section_by_name(".text")
            self.code = text.data()
            self.symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols()}

    def read(self, symbol: str, kind: str, count: int) -> Any:
        """``count`` numbers of a global."""
        size = np.dtype(kind).itemsize
        at = self.symbols[symbol]
        data = bytes(self.chip.read_uint8(at + k) for k in range(size * count))
        return np.frombuffer(data, kind)

    def _calls(self) -> bytearray:
        """1 where a BL or BLX begins."""
        found = bytearray(len(self.code))
        for at in range(0, len(self.code) - 3, 2):
            first, second = (int.from_bytes(self.code[at + k : at + k + 2], "little") for k in (0, 2))
            found[at] = (first >> 11 == 0b11110 and second >> 14 == 0b11) or first & 0xFF87 == 0x4780
        return found

    def run(self) -> Counter[tuple[tuple[int, ...], int]]:
        """Run to the end; cycles by (addresses of the calls that lead there, address)."""
        stop, core, calls, limit = MEMORY + 0x41FFE, self.chip.core, self._calls(), len(self.code)
        starts = {at & ~1 for name, at in self.symbols.items() if name and not name.startswith(("$", "__gnu_thumb1_"))}
        core.sp, core.lr, core.pc = STACK, stop | 1, self.symbols["start"] & ~1
        spent: dict[tuple[int, ...], dict[int, int]] = {(): {}}
        stack: list[tuple[int, tuple[int, ...]]] = []
        chain: tuple[int, ...] = ()
        here, back, step = spent[chain], -1, core.execute_instruction
        pc = core.pc
        while pc != stop:
            here[pc] = here.get(pc, 0) + step()
            then = core.pc
            if then == back:
                _, chain = stack.pop()
                back = stack[-1][0] if stack else -1
                here = spent[chain]
            elif pc - MEMORY < limit and calls[pc - MEMORY] and then != pc + 4 and then in starts:  # no far jump
                back = pc + (2 if self.code[pc - MEMORY + 1] == 0x47 else 4)
                stack.append((back, chain))
                chain = (*chain, pc)
                here = spent.setdefault(chain, {})
            pc = then
        return Counter({(chain, pc): n for chain, found in spent.items() for pc, n in found.items()})


def functions(program: str | Path, addresses: Iterable[int], tool: str = "arm-none-eabi-addr2line") -> dict[int, Stack]:
    """Functions that hold each address, inlined ones first."""
    given = "\n".join(map(hex, addresses))
    command = [tool, "-a", "-i", "-f", "-e", str(program)]
    found: dict[int, list[str]] = {}
    for line in subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout.split("\n"):
        if line.startswith("0x"):
            current = found.setdefault(int(line, 16), [])
        elif line and ":" not in line:
            current.append(line)
    return {at: tuple(names) for at, names in found.items()}


def frames(machine: Machine, spent: Counter[tuple[tuple[int, ...], int]]) -> Counter[Stack]:
    """Cycles by chain of functions, innermost first."""
    addresses = sorted({pc for _, pc in spent} | {at for chain, _ in spent for at in chain})
    names = functions(machine.program, addresses)
    out: Counter[Stack] = Counter()
    for (chain, pc), cycles in spent.items():
        stack = names[pc]
        for at in reversed(chain):
            stack += names[at]
        out[stack] += cycles
    return out


MACS = {  # of the functions of m0/products.c: one block row times 64 columns
    "plain_8x8": 4 * 64 * 64,
    "plain_12x8": 4 * 64 * 64,
    "smx_8x8_k64": 4 * 64 * 64,
    "smx_8x8_k256": 4 * 64 * 256,
    "smx_12x8_k64": 4 * 64 * 64,
    "smx_12x8_k256": 4 * 64 * 256,
    "turned_12x8_k64": 4 * 64 * 64,
    "pack": 64 * 256,
}


def products(folder: Path) -> dict[str, float]:
    """Cycles a product (or element that is packed) of each function of ``MACS``."""
    machine = Machine(folder, "products.c")
    spent: Counter[str] = Counter()
    for stack, cycles in frames(machine, machine.run()).items():
        spent.update(dict.fromkeys(set(stack) & MACS.keys(), cycles))
    return {name: spent[name] / macs for name, macs in MACS.items()}


WORK = {  # what a function's cycles count as, from the innermost out
    "ppn_encode": "encode",
    "ppn_store": "encode",
    "ppn_put_cotangent": "encode",
    "ppn_reshape": "reshape",
    "ppn_flatten": "reshape",
    "ppn_accumulate": "accumulate",
    "ppn_outer": "product",
    "ppn_ready_product": "product",
    "ppn_make_ready": "product",
    "ppn_run_": "product",
    "ppn_product": "product",
    "ppn_return_": "activation",
    "ppn_forward_column": "activation",
    "ppn_bias_gradient": "bias",
    "ppn_add_bias": "bias",
}
PART = ("ppn_load", "ppn_begin", "ppn_forward", "ppn_stage_gradient", "ppn_input_cotangent", "ppn_backward")
PART += ("ppn_gradients", "ppn_plan")


def of_step(folder: Path, program: Program, device: Recorder) -> Machine:
    """The machine that will run the recorded step."""
    (folder / "case.h").write_text(case_text(program, device))
    return Machine(folder, "step.c")


def phase(stack: Stack) -> tuple[str, str]:
    part = next((name for name in stack if name in PART), "main")
    work = next((what for name in stack for start, what in WORK.items() if name.startswith(start)), "rest")
    return part, work


def main() -> None:
    parser = argparse.ArgumentParser(description="cycles of a training step on an emulated RP2040")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--tt", default="8x8")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--points", type=int, default=16, help="interior points, and as many on the boundary")
    parser.add_argument("--precision", default="w8a8g12")
    parser.add_argument("--estimator", default="jet", choices=STEPLESS)
    parser.add_argument("--steps", type=int, default=3, help="training steps before the one that is counted, and it")
    parser.add_argument("--functions", action="store_true", help="also print the functions that take most")
    options = parser.parse_args()
    program, device = record(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        machine = of_step(folder, program, device)
        for work, cycles in products(folder).items():
            print(f"{work:22}{'cycles an element' if work == 'pack' else 'cycles a product':20}{cycles:8.2f}")
        spent = machine.run()
        expected = device.step.gradients
        assert expected is not None
        same = np.array_equal(
            machine.read("mantissas", "<i2", expected.values.mantissas.size), expected.values.mantissas.ravel()
        )
        same &= np.array_equal(
            machine.read("exps", "i1", expected.values.exponents.size), expected.values.exponents.ravel()
        )
        same &= np.array_equal(machine.read("peaks", "<u4", expected.peaks.size), expected.peaks)
        stacks = frames(machine, spent)
    phases: Counter[tuple[str, str]] = Counter()
    for stack, cycles in stacks.items():
        phases[phase(stack)] += cycles
    for (part, work), cycles in sorted(
        phases.items(), key=lambda item: (PART.index(item[0][0]) if item[0][0] in PART else -1, -item[1])
    ):
        print(f"{part:22}{work:12}{cycles:12,}")
    print(f"{'total':34}{sum(phases.values()):12,}  {'same bits as the host' if same else 'OTHER BITS THAN THE HOST'}")
    if options.functions:
        alone: Counter[str] = Counter()
        for stack, cycles in stacks.items():
            alone[" < ".join(stack[:4])] += cycles
        for function, cycles in alone.most_common(45):
            print(f"{cycles:12,}  {function}")


if __name__ == "__main__":
    main()
