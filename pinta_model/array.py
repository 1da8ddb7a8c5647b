"""The grid of block engines: how many cycles a matrix product takes, in closed form and cycle by cycle.

An element multiplies a 4x4 block of A by one of B in ``pace`` cycles, one 4-bit slice pair of its 64 products after
the other, and hands each operand on to its neighbour one cycle after it began. A product is cut into *folds* that fit
the grid. Output stationary: a fold is a tile of C; its blocks of A and B stream through (``steps`` = k), results leave
through shadow registers while the next fold runs. Weight stationary: a fold is a tile of B, loaded behind the one in
use; rows of A stream through (``steps`` = m), sums leave at the bottom. Input stationary is that with A and B
exchanged, C transposed: square blocks read the same either way.

The sums of a block align to their largest exponent (docs/spec.md, 3), known only when all exponents were seen: a small
array of adders and comparators *scans* them, one step a cycle, ahead of the mantissas.

All functions take integers; the closed forms also NumPy arrays of them, for many designs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .architecture import LANES

Stationary = Literal["output", "weight", "input"]
STATIONARY: tuple[Stationary, ...] = ("output", "weight", "input")
SLICE_BITS = 4
BLOCK_ELEMENTS = 16
SUM_BYTES = 4 * BLOCK_ELEMENTS  # a block of int32 sums
FREE = 1 << 40  # a port that never limits

# Integers, or arrays of them that broadcast: NumPy has no name for "either" that its own operators keep.
Count = Any


def slices(bits: Count) -> Count:
    """4-bit slices of a mantissa."""
    return -(-bits // SLICE_BITS)


def pace(bits_a: Count, bits_b: Count, slice_multipliers: Count) -> Count:
    """Cycles of a block product: every pair of slices of 64 products, on so many multipliers."""
    return -(-LANES * slices(bits_a) * slices(bits_b) // slice_multipliers)


@dataclass(frozen=True)
class Product:
    """C (m x n) = A (m x k) B (k x n), sizes in blocks.

    Attributes:
        a_bytes, b_bytes: of a block of A and of B.
        pace: cycles of a block product.
        scan: exponents must be scanned before.
        drain: numbers a cycle that leave on the way out.
        off_chip_bytes: operands that come from off-chip memory meanwhile, in the order of use.
    """

    m: Count
    k: Count
    n: Count
    a_bytes: Count = 0
    b_bytes: Count = 0
    pace: Count = 1
    scan: bool = False
    drain: Count = FREE
    off_chip_bytes: Count = 0

    def transposed(self) -> Product:
        """C^T = B^T A^T, from the same blocks."""
        return replace(self, m=self.n, n=self.m, a_bytes=self.b_bytes, b_bytes=self.a_bytes)


@dataclass(frozen=True)
class Grid:
    """Elements, and bytes a cycle of the left edge, of the top edge and from off-chip memory."""

    rows: Count
    cols: Count
    row_port: Count = FREE
    col_port: Count = FREE
    off_chip: Count = FREE


@dataclass(frozen=True)
class Timing:
    """What a product takes.

    Attributes:
        cycles: from start to the last result.
        stall_cycles: of these, what ports, results on their way out and off-chip memory add.
        busy_cycles: cycles times elements that multiplied.
        a_bytes, b_bytes: read from the buffers.
    """

    cycles: Count
    stall_cycles: Count
    busy_cycles: Count
    a_bytes: Count
    b_bytes: Count


def timing(product: Product, grid: Grid, stationary: Stationary) -> Timing:
    """The closed form."""
    cycles = _cycles(product, grid, stationary)
    free = replace(product, drain=FREE, off_chip_bytes=0)
    ideal = _cycles(free, Grid(grid.rows, grid.cols), stationary)
    return _timing(product, grid, stationary, cycles, cycles - ideal)


def _timing(product: Product, grid: Grid, stationary: Stationary, cycles: Count, stalls: Count) -> Timing:
    m, k, n = product.m, product.k, product.n
    if stationary == "output":
        a_times, b_times = -(-n // grid.cols), -(-m // grid.rows)
    elif stationary == "weight":
        a_times, b_times = -(-n // grid.cols), 1
    else:
        a_times, b_times = 1, -(-m // grid.cols)
    return Timing(
        cycles, stalls, m * k * n * product.pace, m * k * product.a_bytes * a_times, k * n * product.b_bytes * b_times
    )


def _cycles(product: Product, grid: Grid, stationary: Stationary) -> Count:
    if stationary == "input":
        return _weight_stationary(product.transposed(), grid)
    return _output_stationary(product, grid) if stationary == "output" else _weight_stationary(product, grid)


def _ceil(a: Count, b: Count) -> Count:
    return -(-a // b)


def _larger(a: Count, *rest: Count) -> Count:
    for b in rest:
        a = np.maximum(a, b) if _many(a) or _many(b) else max(a, b)
    return a


def _pick(condition: Any, a: Count, b: Count) -> Count:
    """a where the condition holds, else b."""
    return np.where(condition, a, b) if _many(condition) else a if condition else b


def _smaller(a: Count, b: Count) -> Count:
    return -_larger(-a, -b)


def _many(value: Any) -> bool:
    return isinstance(value, np.ndarray)  # plain numbers, one design, are 10 times as fast without NumPy


def _split(size: Count, cells: Count) -> tuple[Count, Count]:
    """Tiles along one side, and the cells of the last one."""
    tiles = _ceil(size, cells)
    return tiles, size - (tiles - 1) * cells


def _arrive(p: Product, g: Grid, steps: Count) -> Count:
    """Cycles before the one in which the last off-chip operand of the first of ``steps`` equal steps comes in."""
    return _larger(_ceil(p.off_chip_bytes, g.off_chip * steps), 1) - 1


def _output_stationary(p: Product, g: Grid) -> Count:
    """A fold takes the longer of its own steps and the results of the fold before leaving."""
    tall, last_row = _split(p.m, g.rows)
    wide, last_col = _split(p.n, g.cols)
    first_row, first_col = _pick(tall > 1, g.rows, last_row), _pick(wide > 1, g.cols, last_col)

    def port(r: Count, c: Count) -> Count:
        return _larger(1, _ceil(r * p.a_bytes, g.row_port), _ceil(c * p.b_bytes, g.col_port))

    def run(r: Count, c: Count) -> Count:
        return p.k * _larger(p.pace, port(r, c))

    def leave(r: Count, c: Count) -> Count:
        return _larger(r, _ceil(r * c * BLOCK_ELEMENTS, p.drain))

    def after(r0: Count, c0: Count, r: Count, c: Count) -> Count:
        """From the end of a fold (r0, c0) to that of the next (r, c)."""
        return _larger(run(r, c), leave(r0, c0))

    def row(r: Count) -> Count:
        """Folds of a grid row after its first."""
        inner = (wide - 2) * after(r, g.cols, r, g.cols)
        return _pick(wide > 1, inner + after(r, g.cols, r, last_col), 0)

    between = _pick(
        tall > 1,
        (tall - 2) * after(g.rows, last_col, g.rows, first_col) + after(g.rows, last_col, last_row, first_col),
        0,
    )
    folds = run(first_row, first_col) + (tall - 1) * row(g.rows) + row(last_row) + between
    waited = _larger(p.pace, port(first_row, first_col)) - p.pace  # for the first step: it is part of the start
    start = _larger(p.k * p.scan, _arrive(p, g, p.k * tall * wide) + port(first_row, first_col))
    streamed = _arrive(p, g, 1) + port(last_row, last_col) + p.pace  # off-chip memory sets the pace
    end = _larger(start + folds - waited, streamed)
    skew = _smaller(p.m, g.rows) + _smaller(p.n, g.cols) - 2
    return end + skew + leave(last_row, last_col)


def _weight_stationary(p: Product, g: Grid) -> Count:
    """A fold takes the longer of its own steps and loading the next one, row by row."""
    deep, last_row = _split(p.k, g.rows)
    wide, last_col = _split(p.n, g.cols)
    first_row, first_col = _pick(deep > 1, g.rows, last_row), _pick(wide > 1, g.cols, last_col)

    def port(r: Count) -> Count:
        return _larger(1, _ceil(r * p.a_bytes, g.row_port))

    def leave(c: Count) -> Count:
        return _ceil(c * BLOCK_ELEMENTS, p.drain)

    def run(r: Count, c: Count, following: Count) -> Count:
        """From the first step to where one of a fold of ``following`` rows could begin."""
        rest = (p.m - 1) * _larger(p.pace, port(r), leave(c))
        return rest + _larger(p.pace, port(following), leave(c))

    def load(r: Count, c: Count) -> Count:
        return r * _larger(1, _ceil(c * p.b_bytes, g.col_port))

    def after(r0: Count, c0: Count, r: Count, c: Count) -> Count:
        """From the first step of a fold (r0, c0) to that of the next (r, c)."""
        return _larger(run(r0, c0, r), load(r, c))

    def column(c: Count) -> Count:
        """From the first fold of a column of tiles to its last."""
        return _pick(deep > 1, (deep - 2) * after(g.rows, c, g.rows, c) + after(g.rows, c, last_row, c), 0)

    turn = after(last_row, g.cols, first_row, g.cols)  # from a column of tiles to the next
    last_turn = _pick(wide > 1, after(last_row, g.cols, first_row, last_col), 0)
    many = _pick(wide > 1, (wide - 1) * column(g.cols) + (wide - 2) * turn, 0)
    scan = p.scan * _ceil(p.m, g.rows) * p.k  # exponents of a column of tiles
    edge = _arrive(p, g, p.m * deep * wide) + port(first_row)
    first = _larger(scan, load(first_row, first_col), edge)
    ahead = _pick(wide > 1, scan * (wide - 1) + column(g.cols) + last_turn, 0)  # where the scan falls behind
    final = (p.m - 1) * _larger(p.pace, port(last_row), leave(last_col)) + p.pace
    end = _larger(first + many + last_turn, ahead, scan * wide) + column(last_col) + final
    streamed = _arrive(p, g, 1) + port(last_row) + p.pace
    skew = _smaller(p.k, g.rows) + _smaller(p.n, g.cols) - 2
    return _larger(end, streamed) + skew + leave(last_col)


# ---------------------------------------------------------------------------------------- cycle by cycle


@dataclass(frozen=True)
class _Fold:
    """A tile on the grid."""

    rows: int
    cols: int
    steps: int
    port: int  # cycles of the edges to read a step's operands
    load: int  # cycles to load what stays; 0 for output stationary
    leave: int  # cycles for the results of the fold (output stationary) or of a step to leave
    scanned: int  # scan cycles that must be over


def simulate(product: Product, grid: Grid, stationary: Stationary) -> Timing:
    """The same, stepped cycle by cycle: ports, queues, loads, the wave through the grid, results on their way out."""
    if stationary == "input":
        found = simulate(product.transposed(), grid, "weight")
        return replace(found, a_bytes=found.b_bytes, b_bytes=found.a_bytes)
    folds = list(_folds(product, grid, stationary))
    machine = _Machine(product, grid, folds, stationary)
    while not machine.done:
        machine.tick()
    free = replace(product, drain=FREE, off_chip_bytes=0)
    limited = grid != Grid(grid.rows, grid.cols) or free != product
    stalls = machine.cycle - simulate(free, Grid(grid.rows, grid.cols), stationary).cycles if limited else 0
    return Timing(machine.cycle, stalls, machine.busy, machine.a_bytes, machine.b_bytes)


def _folds(p: Product, g: Grid, stationary: Stationary) -> Iterator[_Fold]:
    if stationary == "output":
        tiles = [(r, c) for r in _tiles(p.m, g.rows) for c in _tiles(p.n, g.cols)]
    else:
        tiles = [(r, c) for c in _tiles(p.n, g.cols) for r in _tiles(p.k, g.rows)]
    for index, (r, c) in enumerate(tiles):
        left, top = _ceil(r * p.a_bytes, g.row_port), _ceil(c * p.b_bytes, g.col_port)
        if stationary == "output":
            leave = max(r, _ceil(r * c * BLOCK_ELEMENTS, p.drain))
            yield _Fold(r, c, p.k, max(left, top), 0, leave, p.scan * (index + 1) * p.k)
        else:
            column = index // _ceil(p.k, g.rows)
            scanned = p.scan * (column + 1) * _ceil(p.m, g.rows) * p.k
            leave = _ceil(c * BLOCK_ELEMENTS, p.drain)
            yield _Fold(r, c, p.m, left, r * max(1, top), leave, scanned)


def _tiles(size: int, cells: int) -> list[int]:
    return [min(cells, size - start) for start in range(0, size, cells)]


class _Edges:
    """One sequencer reads the operands of one step after the other at both edges, one step ahead."""

    def __init__(self, cycles: list[int]) -> None:
        self.cycles, self.next, self.left, self.queue = cycles, 0, 0, 0

    def tick(self, allowed: int) -> None:
        """A cycle passes; steps below ``allowed`` may be read."""
        if self.left == 0 and self.next < min(allowed, len(self.cycles)) and not self.queue:
            self.left = max(1, self.cycles[self.next])
            self.next += 1
        if self.left:
            self.left -= 1
            self.queue += self.left == 0


class _Machine:
    """The state of the array; a tick is a cycle."""

    def __init__(self, product: Product, grid: Grid, folds: list[_Fold], stationary: Stationary) -> None:
        self.product, self.grid, self.folds = product, grid, folds
        self.output = stationary == "output"
        self.cycle = self.busy = 0
        self.a_bytes = self.b_bytes = 0
        self.scanned = 0
        self.arrived = 0.0
        self.steps = sum(fold.steps for fold in folds)
        self.edges = _Edges([fold.port for fold in folds for _ in range(fold.steps)])
        self.fold = self.step = self.issued = 0
        self.resting = 0  # cycles until the corner element can begin again
        self.loaded, self.loading = (len(folds), 0) if self.output else (0, folds[0].load)
        self.leaving = 0  # cycles until the results of the fold before are out
        rows = min(grid.rows, max(f.rows for f in folds))
        cols = min(grid.cols, max(f.cols for f in folds))
        self.wave = np.full((rows, cols), -1)  # the fold an element began a step of in this cycle
        self.work = np.zeros((rows, cols), dtype=int)  # cycles an element still multiplies
        self.useful = np.zeros((rows, cols), dtype=bool)  # whether it does so for the result, or past the fold's edge
        self.done = False

    def tick(self) -> None:
        """One cycle: operands move, then the corner may begin a step, then the wave moves."""
        began = self._begin()
        self._move(began)
        self._ports()
        self.leaving = max(0, self.leaving - 1)
        self.resting = max(0, self.resting - 1)
        self.cycle += 1
        moving = (self.wave[:, :-1] >= 0).any() or (self.wave[:-1, 0] >= 0).any()
        if self.fold == len(self.folds) and not moving and not self.work.any():
            self.cycle += self._last_out()
            self.done = True

    def _last_out(self) -> int:
        return self.folds[-1].leave

    def _begin(self) -> int:
        """Begin a step in the corner if all is there; returns the fold, or -1."""
        if self.fold == len(self.folds) or self.resting:
            return -1
        fold = self.folds[self.fold]
        ready = self.edges.queue and self.loaded > self.fold
        if not (ready and self.scanned >= fold.scanned):
            return -1
        last = self.step + 1 == fold.steps
        if self.output and last and self.leaving > self.product.pace:
            return -1  # the shadow registers are taken until the results before are out
        if not self.output and self.leaving:
            return -1
        return self._issue(fold, last)

    def _issue(self, fold: _Fold, last: bool) -> int:
        began = self.fold
        self.edges.queue -= 1
        self.a_bytes += fold.rows * self.product.a_bytes
        if self.output:
            self.b_bytes += fold.cols * self.product.b_bytes
        self.resting = self.product.pace
        self.step += 1
        if self.output and last:
            self.leaving = self.product.pace + fold.leave
        if not self.output:
            self.leaving = fold.leave
            if self.step == 1:
                self.b_bytes += fold.rows * fold.cols * self.product.b_bytes
                # the shadow of what stays is free again
                self.loading = self.folds[self.fold + 1].load if self.fold + 1 < len(self.folds) else 0
        if last:
            self.fold, self.step = self.fold + 1, 0
        return began

    def _move(self, began: int) -> None:
        """The wave goes on to the right, and in the first column down."""
        after = np.full_like(self.wave, -1)
        after[:, 1:] = self.wave[:, :-1]
        after[1:, 0] = self.wave[:-1, 0]
        after[0, 0] = began
        self.wave = after
        for row, col in zip(*np.nonzero(after >= 0), strict=True):
            fold = self.folds[after[row, col]]
            self.work[row, col] = self.product.pace
            self.useful[row, col] = row < fold.rows and col < fold.cols
        self.busy += int(np.count_nonzero(self.work * self.useful))
        self.work = np.maximum(self.work - 1, 0)

    def _ports(self) -> None:
        """Off-chip memory, scan, loads and edges each do a cycle's work."""
        self.scanned += 1
        if self.loading:
            self.loading -= 1
            self.loaded += self.loading == 0
        self.arrived += self.grid.off_chip
        share = self.arrived / self.product.off_chip_bytes if self.product.off_chip_bytes else 1.0
        self.edges.tick(int(share * self.steps + 1e-9))


# ------------------------------------------------------------------------------------- plain systolic arrays


def systolic_cycles(stationary: Stationary, m: Count, k: Count, n: Count, rows: Count, cols: Count) -> Count:
    """Cycles of C (m x n) = A (m x k) B (k x n) on a plain grid of multiply-adders, as SCALE-Sim counts them.

    No fold overlaps another, and each takes the whole grid; the count is the number of the last cycle, from 0.
    """
    if stationary == "output":
        return (k + rows + cols - 2) * _ceil(m, rows) * _ceil(n, cols) - 1
    if stationary == "weight":
        return (m + 2 * rows + cols - 2) * _ceil(k, rows) * _ceil(n, cols) - 1
    return (n + 2 * rows + cols - 2) * _ceil(k, rows) * _ceil(m, cols) - 1
