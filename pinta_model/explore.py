"""Many designs at once: sweep sizes, widths, buffers, dataflow and clock, and find the designs nothing else beats."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architecture import Architecture, Dataflow
from .energy import areas_mm2
from .memory import tile_bytes
from .model import Report, evaluate
from .workload import Workload

Column = NDArray[Any]
PORT_BYTES = 8  # a cycle for each row or column, as the default design has


@dataclass(frozen=True)
class Axes:
    """What is varied besides the widths; every combination is a design."""

    rows: Sequence[int] = (2, 4, 8, 16, 32, 64)
    cols: Sequence[int] = (2, 4, 8, 16, 32)
    slice_multipliers: Sequence[int] = (32, 64, 128, 256)
    clock_mhz: Sequence[float] = (200.0, 400.0, 800.0)
    activation_kib: Sequence[int] = (256, 1024, 4096, 8192)
    dataflows: Sequence[Dataflow] = ("output", "weight", "input", "best")

    @property
    def size(self) -> int:
        lists = (self.rows, self.cols, self.slice_multipliers, self.clock_mhz, self.activation_kib, self.dataflows)
        return int(np.prod([len(values) for values in lists]))


@dataclass(frozen=True)
class Sweep:
    """Designs that can work, a row each in every column, and which rows nothing beats in both energy and time."""

    columns: Mapping[str, Column]
    frontier: NDArray[np.int64]
    refused: int

    def __len__(self) -> int:
        return len(self.columns["seconds"])

    def csv_text(self) -> str:
        """Every design a line."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        on_frontier = np.zeros(len(self), dtype=bool)
        on_frontier[self.frontier] = True
        writer.writerow([*self.columns, "frontier"])
        writer.writerows(
            zip(*(c.tolist() for c in self.columns.values()), on_frontier.astype(int).tolist(), strict=True)
        )
        return text.getvalue()


def sweep(workloads: Mapping[str, Workload], design: Architecture, axes: Axes | None = None) -> Sweep:
    """All combinations for workloads of several widths (their keys); other parameters are those of ``design``.

    Designs whose buffers cannot hold one tile are left out and counted.
    """
    axes = axes or Axes()
    parts = [
        _group(widths, workload, design, axes, kib)
        for widths, workload in workloads.items()
        for kib in axes.activation_kib
    ]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    total = axes.size * len(workloads)
    return Sweep(columns, frontier(columns["seconds"], columns["pj"]), total - len(columns["pj"]))


def _group(widths: str, workload: Workload, design: Architecture, axes: Axes, kib: int) -> dict[str, Column]:
    """The designs of one buffer size, evaluated together: a row a dataflow, a column for everything else."""
    grid = np.array(list(itertools.product(axes.rows, axes.cols, axes.slice_multipliers, axes.clock_mhz)))
    fits = np.ones(len(grid), dtype=bool)
    sizes = {name: buffer.size_bytes for name, buffer in design.buffers.items()} | {"activation": kib * 1024}
    for name, need in tile_bytes(workload, grid[:, 0], grid[:, 1]).items():
        fits &= need <= sizes[name]
    rows, cols, multipliers = (grid[fits, column].astype(np.int64) for column in range(3))
    clock = grid[fits, 3]
    dataflow: Any = np.array(axes.dataflows)[:, None]  # as a design says it, but for all of them
    buffer = replace(design.buffers["activation"], size_bytes=kib * 1024)
    array = replace(
        design.array,
        rows=rows,
        cols=cols,
        slice_multipliers=multipliers,
        dataflow=dataflow,
        row_port_bytes=PORT_BYTES * rows,
        col_port_bytes=PORT_BYTES * cols,
    )
    many = replace(design, array=array, clock_mhz=clock, buffers={**design.buffers, "activation": buffer})
    report = evaluate(workload, many)
    columns: dict[str, Any] = {
        "widths": widths,
        "rows": rows,
        "cols": cols,
        "slice_multipliers": multipliers,
        "clock_mhz": clock,
        "activation_kib": kib,
        "dataflow": dataflow,
        "cycles": report.cycles,
        "seconds": report.seconds,
        "pj": report.pj,
        "watts": report.watts,
        "area_mm2": sum(areas_mm2(many).values()),
        "utilization": report.utilization,
        "dram_bytes": report.level_bytes["dram"],
        "bottleneck": bottlenecks(report),
    }
    shape = (len(dataflow), len(rows))
    return {key: np.broadcast_to(value, shape).reshape(-1) for key, value in columns.items()}


def frontier(seconds: Column, pj: Column) -> NDArray[np.int64]:
    """Rows that no other beats in both, fastest first."""
    order = np.lexsort((pj, seconds))
    lowest = np.minimum.accumulate(pj[order])
    first = np.ones(len(order), dtype=bool)
    first[1:] = pj[order][1:] < lowest[:-1]
    return order[first]


def bottlenecks(report: Report) -> Column:
    """What takes most of the time: multipliers, idle elements, ports and outputs, off-chip memory, or units."""
    elements = report.design.array.rows * report.design.array.cols
    zero = np.zeros(np.shape(report.cycles))
    multiply, stalls, units = zero.copy(), zero.copy(), zero.copy()
    off_chip = zero + off_chip_stall_cycles(report)
    for cost in report.costs:
        multiply += cost.busy_cycles / elements
        stalls += cost.stall_cycles
        units += (cost.kind != "gemm") * (cost.cycles - cost.stall_cycles)
    stalls -= off_chip
    idle = report.cycles - multiply - stalls - off_chip - units
    names = np.array(["multipliers", "idle elements", "ports and outputs", "off-chip memory", "units"])
    found: Column = names[np.argmax(np.stack([multiply, idle, stalls, off_chip, units]), axis=0)]
    return found


def off_chip_stall_cycles(report: Report) -> Column:
    """Stalls for off-chip memory: of each operation, no more than what it moves takes."""
    total: Column = np.zeros(())
    for cost in report.costs:
        waits = cost.level_bytes.get("dram", 0) / report.design.dram_bytes_per_cycle
        total = total + np.minimum(cost.stall_cycles, waits)
    return total
