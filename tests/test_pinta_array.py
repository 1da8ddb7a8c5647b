"""The grid: closed form against the cycle-stepped simulation, against SCALE-Sim, and laws both must keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinta_model.array import FREE, STATIONARY, Grid, Product, Stationary, pace, simulate, systolic_cycles, timing

REFERENCE, ZIGZAG = (
    json.loads((Path(__file__).parent / "reference" / f"{name}.json").read_text())
    for name in ("scalesim_cycles", "zigzag_costs")
)

sizes = st.integers(1, 12)
stationary = st.sampled_from(STATIONARY)
block_bytes = st.sampled_from([9, 17, 25, 33])
paces = st.sampled_from([1, 2, 4, 6, 9, 16])
free_products = st.builds(Product, sizes, sizes, sizes, block_bytes, block_bytes, paces, st.booleans())
products = st.builds(
    Product,
    sizes,
    sizes,
    sizes,
    block_bytes,
    block_bytes,
    paces,
    st.booleans(),
    st.sampled_from([FREE, 16, 32, 64, 128]),
    st.sampled_from([0, 0, 500, 4000]),
)
cells = st.integers(1, 5)
free_grids = st.builds(Grid, cells, cells)
ports = st.sampled_from([FREE, 16, 32, 64, 128])
grids = st.builds(Grid, cells, cells, ports, ports, st.sampled_from([4, 16, 64]))


@settings(max_examples=200, deadline=None)
@given(free_products, free_grids, stationary)
def test_without_stalls_both_agree_exactly(product: Product, grid: Grid, stays: Stationary) -> None:
    closed, stepped = timing(product, grid, stays), simulate(product, grid, stays)
    assert closed.cycles == stepped.cycles
    assert closed.stall_cycles == stepped.stall_cycles == 0


@settings(max_examples=200, deadline=None)
@given(products, grids, stationary)
def test_with_stalls_both_agree_within_two_percent(product: Product, grid: Grid, stays: Stationary) -> None:
    closed, stepped = timing(product, grid, stays), simulate(product, grid, stays)
    assert abs(closed.cycles - stepped.cycles) <= max(1, 0.02 * stepped.cycles)
    if stepped.stall_cycles == 0:
        assert closed.cycles == stepped.cycles


@settings(max_examples=200, deadline=None)
@given(products, grids, stationary)
def test_every_byte_and_every_product_is_counted(product: Product, grid: Grid, stays: Stationary) -> None:
    closed, stepped = timing(product, grid, stays), simulate(product, grid, stays)
    assert closed.a_bytes == stepped.a_bytes >= product.m * product.k * product.a_bytes
    assert closed.b_bytes == stepped.b_bytes >= product.k * product.n * product.b_bytes
    assert closed.busy_cycles == stepped.busy_cycles == product.m * product.k * product.n * product.pace
    assert 0 < closed.busy_cycles <= closed.cycles * grid.rows * grid.cols
    assert closed.stall_cycles >= 0


@settings(max_examples=200, deadline=None)
@given(products, grids, stationary, st.sampled_from(["m", "k", "n", "pace"]))
def test_more_work_never_takes_less(product: Product, grid: Grid, stays: Stationary, what: str) -> None:
    more = replace(product, **{what: getattr(product, what) + 1})
    free = Grid(grid.rows, grid.cols)
    assert timing(replace(more, off_chip_bytes=0, drain=FREE), free, stays).cycles >= timing(
        replace(product, off_chip_bytes=0, drain=FREE), free, stays
    ).cycles - (stays != "output") * (grid.rows + grid.cols)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(cells, cells, ports, ports), min_size=1, max_size=6), products, stationary)
def test_arrays_of_designs_give_what_single_ones_give(
    designs: list[tuple[int, int, int, int]], product: Product, stays: Stationary
) -> None:
    columns = [np.array(column) for column in zip(*designs, strict=True)]
    together = timing(product, Grid(*columns, 16), stays)
    for index, design in enumerate(designs):
        assert together.cycles[index] == timing(product, Grid(*design, 16), stays).cycles


def test_wider_mantissas_cost_slices() -> None:
    assert [pace(a, b, 64) for a, b in ((4, 4), (8, 8), (8, 12), (12, 12), (16, 16))] == [1, 4, 6, 9, 16]
    assert [pace(8, 8, multipliers) for multipliers in (16, 128, 256, 512)] == [16, 2, 1, 1]


@pytest.mark.parametrize("stays", STATIONARY)
def test_plain_systolic_arrays_take_the_cycles_of_scalesim(stays: Stationary) -> None:
    found = [p for p in REFERENCE["products"] if p["stationary"] == stays]
    assert len(found) == 24
    for p in found:
        assert systolic_cycles(stays, p["m"], p["k"], p["n"], p["rows"], p["cols"]) == p["cycles"], p


@pytest.mark.parametrize("p", ZIGZAG["products"], ids=lambda p: f"{p['m']}x{p['k']}x{p['n']}")
def test_zigzag_agrees_but_for_terms_it_does_not_know(p: dict[str, int]) -> None:
    """Its cycles lack the first fetch, the skew of the wave, and the last results leaving; its bytes lack exponents."""
    m, k, n = p["m"] // 4, p["k"] // 4, p["n"] // 4
    rows, cols = ZIGZAG["rows"], ZIGZAG["cols"]
    ours = timing(Product(m, k, n, 16, 16, 1), Grid(rows, cols), "output")
    unknown = 1 + (rows + cols - 2) + rows
    assert ours.cycles - p["cycles"] == unknown + max(0, rows - k) * (m // rows * (n // cols) - 1)
    assert (ours.a_bytes, ours.b_bytes) == (p["a_bytes"], p["b_bytes"])
    if p["cycles"] >= 20 * unknown:
        assert ours.cycles == pytest.approx(p["cycles"], rel=0.05)
