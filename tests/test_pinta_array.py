"""The grid: closed form against the cycle-stepped simulation, against SCALE-Sim, and laws both must keep."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pinta_model
from pinta_model.array import (
    FREE,
    STATIONARY,
    SUM_BYTES,
    Grid,
    Product,
    Stationary,
    Timing,
    pace,
    simulate,
    systolic_cycles,
    timing,
)
from pinta_model.energy import energies

REFERENCE, ZIGZAG = (
    json.loads((Path(__file__).parent / "reference" / f"{name}.json").read_text())
    for name in ("scalesim_cycles", "zigzag_costs")
)

ROWS, COLS = ZIGZAG["rows"], ZIGZAG["cols"]

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
def test_with_stalls_both_agree_within_two_percent_and_count_every_byte(
    product: Product, grid: Grid, stays: Stationary
) -> None:
    closed, stepped = timing(product, grid, stays), simulate(product, grid, stays)
    assert abs(closed.cycles - stepped.cycles) <= max(1, 0.02 * stepped.cycles)
    if stepped.stall_cycles == 0:
        assert closed.cycles == stepped.cycles
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


@dataclass(frozen=True)
class Compared:
    """One of ZigZag's products beside the closed form: sizes in blocks, folds down and across."""

    zigzag: dict[str, Any]
    m: int
    k: int
    n: int
    tall: int
    wide: int
    ours: Timing

    @property
    def skew(self) -> int:
        """Cycles that ZigZag does not know: the first fetch, and the wave's way through the grid."""
        return 1 + min(self.m, ROWS) + min(self.n, COLS) - 2

    @property
    def equal(self) -> bool:
        """Several folds of one size; but two, one below the other, ZigZag keeps in both registers at once."""
        whole = self.tall == 1 or self.m % ROWS == 0, self.wide == 1 or self.n % COLS == 0
        return all(whole) and self.tall * self.wide > 1 and (self.tall, self.wide) != (2, 1)

    @property
    def uneven(self) -> int:
        """Rows that leave sooner or later where ZigZag makes all folds alike; it lets a lone one's leave unseen."""
        folds = self.tall * self.wide
        down, across = self.tall * ROWS - self.m, self.wide * COLS - self.n
        return 0 if self.equal else ROWS + (down if self.tall > 1 else 0) * self.wide + folds * across * ROWS // COLS


def compared(p: dict[str, Any]) -> Compared:
    m, k, n = (p[size] // 4 for size in ("m", "k", "n"))
    product = Product(m, k, n, 2 * p["bits_a"] + 1, 2 * p["bits_b"] + 1)
    return Compared(p, m, k, n, -(-m // ROWS), -(-n // COLS), timing(product, Grid(ROWS, COLS), "output"))


COMPARED = [compared(p) for p in ZIGZAG["products"]]


@pytest.mark.parametrize("c", COMPARED, ids=lambda c: "x".join(str(v) for v in list(c.zigzag.values())[:5]))
def test_zigzag_has_our_cycles_but_for_terms_it_does_not_know(c: Compared) -> None:
    assert abs(c.ours.cycles - c.zigzag["cycles"] - c.skew) <= c.uneven
    if c.equal and c.zigzag["cycles"] >= 20 * c.skew:
        assert c.ours.cycles == pytest.approx(c.zigzag["cycles"], rel=0.05)


def test_zigzag_has_our_cycles_within_five_percent_for_all_products_of_the_steps_together() -> None:
    assert sum(c.equal for c in COMPARED) > 30  # of 73, whose cycles differ by the skew exactly
    assert sum(c.ours.cycles for c in COMPARED) == pytest.approx(sum(c.zigzag["cycles"] for c in COMPARED), rel=0.05)


@pytest.mark.parametrize("c", COMPARED, ids=lambda c: "x".join(str(v) for v in list(c.zigzag.values())[:5]))
def test_zigzag_has_our_energy_at_every_level_but_for_terms_it_does_not_know(c: Compared) -> None:
    """It counts whole accesses of a port, so every level to within one; the rest is exact."""
    cost, p = energies(pinta_model.default()), c.zigzag
    exponents = (2 * p["bits_a"] + 1) / (2 * p["bits_a"]), (2 * p["bits_b"] + 1) / (2 * p["bits_b"])
    held_a = c.wide if c.k == 1 else 1  # an operand that does not change is not read again
    held_b = 2 if (c.tall, c.wide) == (2, 1) else 1  # two folds at once, in both registers
    for level, ours_bytes, port_bytes in (
        ("activation", c.ours.a_bytes / exponents[0] / held_a, ROWS * 2 * p["bits_a"]),
        ("weight", c.ours.b_bytes / exponents[1] / held_b, COLS * 2 * p["bits_b"]),
        ("gradient", c.m * c.n * SUM_BYTES, min(COLS, c.n) * SUM_BYTES),
    ):
        per_byte = cost.buffer_pj_per_byte[level]
        assert abs(ours_bytes * per_byte - p["pj"][level]) <= port_bytes * per_byte + 0.002 * p["pj"][level], level
    way_out = c.m * c.n * (c.k > 1) / 2  # it reads a finished sum once more; we write its shadow in the same cycle
    assert (c.m * c.k * c.n + way_out) * cost.block_pj == pytest.approx(p["pj"]["sums"], rel=0.001)
    if c.ours.a_bytes >= 20 * ROWS * 2 * p["bits_a"] and held_a == 1:
        assert c.ours.a_bytes / exponents[0] * cost.buffer_pj_per_byte["activation"] == pytest.approx(
            p["pj"]["activation"], rel=0.05
        )
