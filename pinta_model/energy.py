"""Picojoules and square millimetres: published figures, scaled to a design's technology.

Rules beside the published entries: a multiplier's energy and area grow with the product of its widths (Horowitz's own 8
and 32 bits differ by 15.5, the rule says 16), an adder's with its width; a shift costs an addition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .architecture import LANES, Architecture, Buffer, UnitSpec
from .array import BLOCK_ELEMENTS, SUM_BYTES, Count
from .workload import block_bits

PARTS = ("multiply", "align", "move", "activation", "weight", "gradient", "dram", "units", "leakage")


@dataclass(frozen=True)
class Energies:
    """What each event costs in a design, in pJ."""

    slice_pj: float  # a 4x4-bit product and the addition to its sum
    block_pj: float  # exponents of a block product added, 16 sums shifted and added
    hop_pj_per_byte: float  # from element to element
    buffer_pj_per_byte: dict[str, float]
    dram_pj_per_byte: float
    multiply_16_pj: float
    add_32_pj: float
    float_pj: float
    table_pj_per_byte: float
    leakage_pj_per_cycle: Count

    def unit_pj(self, unit: UnitSpec) -> float:
        """A number through a unit, buffers not counted."""
        return (
            unit.multiplies * self.multiply_16_pj
            + unit.adds * self.add_32_pj
            + unit.floats * self.float_pj
            + unit.table_bytes * self.table_pj_per_byte
        )


def energies(design: Architecture) -> Energies:
    """The costs of a design's events."""
    cost = {name: design.scaled(entry, "energy") for name, entry in design.energy.items()}
    multiply_8, add_32 = cost["multiply_8_pj"], cost["add_32_pj"]
    slice_pj, block_pj = multiply_8 / 4 + add_32 / 2, add_32 / 4 + BLOCK_ELEMENTS * 2 * add_32
    hop = cost["hop_word_per_mac"] * (4 * multiply_8 + add_32) / 2
    buffers = {name: _sram_pj_per_byte(cost, buffer) for name, buffer in design.buffers.items()}
    leakage_w = design.leakage_mw_per_mm2 * 1e-3 * sum(areas_mm2(design).values())
    return Energies(
        slice_pj,
        block_pj,
        hop,
        buffers,
        cost["dram_64b_pj"] / 8,
        4 * multiply_8,
        add_32,
        cost["float_multiply_pj"],
        cost["sram_64b_8kib_pj"] / 8,
        leakage_w / (design.clock_mhz * 1e6) * 1e12,
    )


def _sram_pj_per_byte(cost: dict[str, float], buffer: Buffer) -> float:
    """Of a bank, between the published sizes along straight lines in logarithms, beyond them as at the ends."""
    bank = min(max(buffer.size_bytes / buffer.banks, 8192.0), 1048576.0)
    small, middle, large = (cost[f"sram_64b_{size}_pj"] for size in ("8kib", "32kib", "1mib"))
    if bank <= 32768:
        return small / 8 * float((bank / 8192) ** math.log(middle / small, 4))
    return middle / 8 * float((bank / 32768) ** math.log(large / middle, 32))


def areas_mm2(design: Architecture) -> dict[str, Count]:
    """Area of the grid, the units and each buffer."""
    area = {name: design.scaled(entry, "area") for name, entry in design.area.items()}
    array = design.array
    units = sum(unit.lanes * _lane_um2(unit, area) for unit in design.units.values())
    bits = {name: 8 * buffer.size_bytes for name, buffer in design.buffers.items()}
    memory = area["sram_bit_um2"] / design.buffer_efficiency
    return {
        "array": array.rows * array.cols * element_um2(design) * 1e-6,
        "units": units * 1e-6,
        **{name: count * memory * 1e-6 for name, count in bits.items()},
    }


def element_um2(design: Architecture) -> Count:
    """A processing element: slice multipliers and adders, exponents, 16 aligners and sums, and registers.

    Registers: two 16-bit blocks in use and two arriving, sums and their shadow; narrower elements by the ratio of the
    hardware's cells.
    """
    area = {name: design.scaled(entry, "area") for name, entry in design.area.items()}
    lanes = design.array.slice_multipliers * (area["multiply_8_um2"] / 4 + area["add_32_um2"] / 2)
    align = BLOCK_ELEMENTS * 2 * area["add_32_um2"] + area["add_32_um2"] / 2
    bits = 4 * block_bits(16) + 2 * 8 * SUM_BYTES
    ratio = design.element_ratio[design.array.widest_bits]
    return ratio * (lanes + align + bits * area["flip_flop_um2"])


def _lane_um2(unit: UnitSpec, area: dict[str, float]) -> float:
    whole = unit.multiplies * 4 * area["multiply_8_um2"] + unit.adds * area["add_32_um2"]
    return whole + (area["float_multiply_um2"] if unit.floats else 0.0)


def peak_products_per_cycle(design: Architecture, bits: int = 8) -> float:
    """Multiplications of a width that a design begins in a cycle."""
    array, pairs = design.array, math.ceil(bits / 4) ** 2
    return float(array.rows * array.cols * LANES / math.ceil(LANES * pairs / array.slice_multipliers))
