"""A step of a workload on a design: cycles, stalls, bytes and picojoules of every operation, in closed form.

Operations run one after the other. A unit that reads what leaves the grid works while it leaves; one that reads an
operand of a product works alongside; any other waits for its turn.

Sizes of the grid, ports, clock and dataflow may be NumPy arrays that broadcast, one entry a design: so are all results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .architecture import LANES, Architecture
from .array import FREE, STATIONARY, SUM_BYTES, Count, Grid, Product, Timing, pace, simulate, slices, timing
from .energy import PARTS, Energies, energies
from .errors import PintaError
from .memory import LEVELS, OFF_CHIP, Placement, check_tiles, place
from .workload import Gemm, Operation, Section, Tensor, Unit, Workload, blocks_of


@dataclass(frozen=True)
class Cost:
    """What one operation takes in a step, all its repetitions together.

    Attributes:
        section, name, layer, phase, stream, kind: of the operation; ``kind`` is ``gemm`` or the unit.
        cycles: how much later the step ends; 0 for a unit that works along with a product.
        stall_cycles: of these, waiting for ports, for results to leave and for off-chip memory.
        busy_cycles: cycles times elements that multiplied.
        products: multiplications, padding not counted.
        level_bytes: read and written at each memory level.
        part_pj: picojoules of each part.
        stationary: what stayed in the grid.
    """

    section: str
    name: str
    layer: str
    phase: str
    stream: str
    kind: str
    cycles: Count
    stall_cycles: Count = 0
    busy_cycles: Count = 0
    products: int = 0
    level_bytes: dict[str, Count] = field(default_factory=dict)
    part_pj: dict[str, Count] = field(default_factory=dict)
    stationary: Count = ""

    @property
    def pj(self) -> Count:
        return sum(self.part_pj.values())

    def times(self, factor: int) -> Cost:
        """The same, repeated."""
        return replace(
            self,
            cycles=self.cycles * factor,
            stall_cycles=self.stall_cycles * factor,
            busy_cycles=self.busy_cycles * factor,
            products=self.products * factor,
            level_bytes={key: value * factor for key, value in self.level_bytes.items()},
            part_pj={key: value * factor for key, value in self.part_pj.items()},
        )


@dataclass(frozen=True)
class Report:
    """A step of a workload on a design."""

    workload: str
    design: Architecture
    costs: tuple[Cost, ...]
    placement: Placement
    leakage_pj_per_cycle: Count

    @cached_property
    def cycles(self) -> Count:
        return sum(cost.cycles for cost in self.costs)

    @property
    def seconds(self) -> Count:
        return self.cycles / (self.design.clock_mhz * 1e6)

    @cached_property
    def part_pj(self) -> dict[str, Count]:
        """Picojoules of the step by part; leakage for its whole length."""
        total = {part: sum(cost.part_pj.get(part, 0.0) for cost in self.costs) for part in PARTS}
        return {**total, "leakage": self.cycles * self.leakage_pj_per_cycle}

    @property
    def pj(self) -> Count:
        return sum(self.part_pj.values())

    @property
    def level_bytes(self) -> dict[str, Count]:
        return {level: sum(cost.level_bytes.get(level, 0.0) for cost in self.costs) for level in LEVELS}

    @property
    def utilization(self) -> Count:
        """Share of the elements' cycles that multiply."""
        elements = self.design.array.rows * self.design.array.cols
        return sum(cost.busy_cycles for cost in self.costs) / (self.cycles * elements)

    @property
    def watts(self) -> Count:
        return self.pj * 1e-12 / self.seconds


def evaluate(workload: Workload, design: Architecture, *, stepped: bool = False) -> Report:
    """The costs of one step.

    Args:
        workload, design: what runs on what.
        stepped: simulate every product cycle by cycle instead of the closed form (slow; one design only).

    Raises:
        PintaError: the design lacks a unit, its elements are too narrow, or a buffer is too small for one tile.
    """
    _check_widths(workload, design)
    if np.ndim(design.array.rows) == 0:
        check_tiles(workload, design)
    placement, costs = place(workload, design), []
    model = _Model(workload, design, placement, energies(design), stepped)
    for section in workload.sections:
        for merged, times in placement.passes(section):
            costs += [cost.times(times) for cost in model.run(section, merged)]
    return Report(workload.name, design, tuple(costs), placement, model.energies.leakage_pj_per_cycle)


def _check_widths(workload: Workload, design: Architecture) -> None:
    widest = design.array.widest_bits
    for section, operation in workload.operations():
        if isinstance(operation, Gemm) and max(operation.bits_a, operation.bits_b) > widest:
            raise PintaError(
                f"{design.source}: array.widest_bits = {widest} cannot run operation {operation.name!r} of section "
                f"{section.name!r} in {workload.source}: its operands have {operation.bits_a} and {operation.bits_b}"
            )


@dataclass(frozen=True)
class _Model:
    workload: Workload
    design: Architecture
    placement: Placement
    energies: Energies
    stepped: bool

    def run(self, section: Section, merged: int) -> Iterator[Cost]:
        """The costs of a section's operations, ``merged`` microbatches at once."""
        operations = [operation.grown(merged) for operation in section.operations]
        index = 0
        while index < len(operations):
            operation = operations[index]
            index += 1
            if isinstance(operation, Unit):
                yield self._alone(section, operation, merged)
                continue
            along = self._along(operation, operations[index:])
            index += len(along)
            yield from self._product(section, operation, along, merged)

    def _along(self, gemm: Gemm, following: Sequence[Operation]) -> list[Unit]:
        """Units after a product that work while it runs."""
        names, found = {gemm.a, gemm.b}, []
        if self.workload.by_name[gemm.c].store == "wire":
            names.add(gemm.c)
        for operation in following:
            if not (isinstance(operation, Unit) and names & set(operation.reads)):
                break
            found.append(operation)
        return found

    def _product(self, section: Section, gemm: Gemm, along: list[Unit], merged: int) -> Iterator[Cost]:
        tensors = self.workload.by_name
        a, b = tensors[gemm.a], tensors[gemm.b]
        spec = self.design.array
        product = Product(
            blocks_of(gemm.m),
            blocks_of(gemm.k),
            blocks_of(gemm.n),
            a.block_bytes,
            b.block_bytes,
            pace(gemm.bits_a, gemm.bits_b, spec.slice_multipliers),
            not gemm.accumulate,
            self._drain(gemm, along),
            self._off_chip(gemm.reads, merged) + sum(self._unit_bytes(u, merged).get(OFF_CHIP, 0) for u in along),
        )
        found, chosen = self._best(product)
        yield self._gemm_cost(section, gemm, product, found, chosen, merged)
        beside = 0
        for unit in along:
            if gemm.c not in unit.reads:
                late = np.maximum(self._unit_cycles(unit) - found.cycles, 0)
                beside = np.maximum(beside, late)
            yield self._unit_cost(section, unit, beside if unit is along[-1] else 0, merged)

    def _drain(self, gemm: Gemm, along: list[Unit]) -> Count:
        """Numbers a cycle that the slowest unit behind the grid lets through."""
        if gemm.accumulate:
            return self.design.unit("accumulate").lanes
        slowest = max((self._unit_cycles(u) for u in along if gemm.c in u.reads), default=0)
        return max(1, gemm.m * gemm.n // slowest) if slowest else FREE

    def _best(self, product: Product) -> tuple[Timing, Count]:
        """The timing of the design's dataflow, or of the fastest one for this product."""
        spec = self.design.array
        grid = Grid(spec.rows, spec.cols, spec.row_port_bytes, spec.col_port_bytes, self.design.dram_bytes_per_cycle)
        found = [timing(product, grid, stationary) for stationary in STATIONARY]
        fastest = np.argmin(np.stack(np.broadcast_arrays(*[t.cycles for t in found])), axis=0)
        named = np.argmax(np.asarray(spec.dataflow)[..., None] == np.array(STATIONARY), axis=-1)
        chosen = np.where(np.equal(spec.dataflow, "best"), fastest, named)
        if self.stepped:
            stationary = STATIONARY[int(chosen)]
            return simulate(product, grid, stationary), stationary
        picked = {
            key: np.choose(chosen, np.broadcast_arrays(*[getattr(t, key) for t in found]))
            for key in ("cycles", "stall_cycles", "busy_cycles", "a_bytes", "b_bytes")
        }
        return Timing(**picked), np.array(STATIONARY)[chosen]

    def _gemm_cost(
        self, section: Section, gemm: Gemm, product: Product, found: Timing, chosen: Count, merged: int
    ) -> Cost:
        level = self.placement.level
        blocks = product.m * product.n
        level_bytes: dict[str, Count] = {OFF_CHIP: product.off_chip_bytes}
        _add(level_bytes, self._staged(gemm.a, "activation"), found.a_bytes)
        _add(level_bytes, self._staged(gemm.b, "weight"), found.b_bytes)
        if level[gemm.c]:  # sums that are kept: read and written
            _add(level_bytes, self._staged(gemm.c, "gradient"), blocks * SUM_BYTES * (1 + gemm.accumulate))
            _add(level_bytes, OFF_CHIP, blocks * SUM_BYTES * (level[gemm.c] == OFF_CHIP))
        output = np.equal(chosen, "output")
        depth = np.where(output, 1, -(-product.k // self.design.array.rows))
        _add(level_bytes, "gradient", 2 * (depth - 1) * blocks * SUM_BYTES)  # sums between folds
        return Cost(
            section.name, gemm.name, gemm.layer, gemm.phase, gemm.stream, "gemm", found.cycles, found.stall_cycles,
            found.busy_cycles, gemm.products, level_bytes, self._gemm_pj(gemm, product, output, level_bytes), chosen,
        )  # fmt: skip

    def _gemm_pj(self, gemm: Gemm, p: Product, output: Count, level_bytes: dict[str, Count]) -> dict[str, Count]:
        costs, blocks = self.energies, p.m * p.k * p.n
        pairs = slices(gemm.bits_a) * slices(gemm.bits_b)
        # operands pass from element to element; without output stationary one of them rests and sums move
        passed = np.where(output, p.a_bytes + p.b_bytes, max(p.a_bytes, p.b_bytes) + SUM_BYTES)
        return {
            "multiply": blocks * LANES * pairs * costs.slice_pj,
            "align": blocks * costs.block_pj,
            "move": blocks * passed * costs.hop_pj_per_byte,
            **self._memory_pj(level_bytes),
        }

    def _memory_pj(self, level_bytes: dict[str, Count]) -> dict[str, Count]:
        rate = {**self.energies.buffer_pj_per_byte, OFF_CHIP: self.energies.dram_pj_per_byte}
        return {level: count * rate[level] for level, count in level_bytes.items()}

    def _alone(self, section: Section, unit: Unit, merged: int) -> Cost:
        """A unit that waits for its turn: its own pace, or that of off-chip memory."""
        own = self._unit_cycles(unit)
        moved = self._unit_bytes(unit, merged).get(OFF_CHIP, 0) / self.design.dram_bytes_per_cycle
        cycles = np.maximum(own, np.ceil(moved))
        return replace(self._unit_cost(section, unit, cycles, merged), stall_cycles=cycles - own)

    def _unit_cost(self, section: Section, unit: Unit, cycles: Count, merged: int) -> Cost:
        level_bytes = self._unit_bytes(unit, merged)
        pj = {
            "units": unit.elements * self.energies.unit_pj(self.design.unit(unit.unit)),
            **self._memory_pj(level_bytes),
        }
        return Cost(
            section.name, unit.name, unit.layer, unit.phase, unit.stream, unit.unit, cycles,
            level_bytes=level_bytes, part_pj=pj,
        )  # fmt: skip

    def _unit_cycles(self, unit: Unit) -> int:
        return -(-unit.elements // self.design.unit(unit.unit).lanes)

    def _unit_bytes(self, unit: Unit, merged: int) -> dict[str, Count]:
        """Bytes of stored tensors that a unit reads and writes: no more than it has numbers, or they have."""
        found: dict[str, Count] = {}
        for name in (*unit.reads, *unit.writes):
            tensor = self.workload.by_name[name]
            level = self.placement.level[name]
            if level:
                _add(found, level, min(self._size(tensor, merged), unit.elements * tensor.block_bytes / 16))
        return found

    def _size(self, tensor: Tensor, merged: int) -> float:
        return tensor.size_bytes * (merged if tensor.scope == "microbatch" else 1)

    def _off_chip(self, names: Sequence[str], merged: int) -> float:
        """Bytes of operands that come from off-chip memory."""
        away = [self.workload.by_name[n] for n in names if self.placement.level[n] == OFF_CHIP]
        return sum(self._size(tensor, merged) for tensor in away)

    def _staged(self, name: str, buffer: str) -> str:
        """The buffer an operand is read from; one from off chip passes through ``buffer``."""
        level = self.placement.level[name]
        return buffer if level in (OFF_CHIP, "") else level


def _add(total: dict[str, Count], level: str, count: Any) -> None:
    total[level] = total.get(level, 0) + count
