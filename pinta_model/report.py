"""A report as a table, CSV and JSON: cycles, stalls, utilization, bytes and picojoules."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from .energy import PARTS, areas_mm2
from .errors import PintaError
from .explore import off_chip_stall_cycles
from .memory import LEVELS
from .model import Cost, Report

LEVEL = "level"
GROUPS = {"layer": ("layer",), "phase": ("phase",), "operation": ("section", "phase", "name")}


def rows(report: Report, by: str) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of a table summed over ``layer``, ``phase``, ``operation`` or memory ``level``.

    Leakage belongs to no operation: it has a line of its own, and is in the total.

    Raises:
        PintaError: ``by`` is none of these.
    """
    if by == LEVEL:
        return _levels(report)
    if by not in GROUPS:
        raise PintaError(f"--by {by!r} is none of {', '.join((*GROUPS, LEVEL))}")
    groups: dict[tuple[str, ...], list[Cost]] = {}
    for cost in report.costs:
        groups.setdefault(tuple(getattr(cost, key) for key in GROUPS[by]), []).append(cost)
    levels = [f"{level}_bytes" for level in LEVELS]
    headings = [by, "cycles", "stall_cycles", "utilization", *levels, "nj"]
    lines = [_line(" ".join(key), costs, report) for key, costs in groups.items()]
    leakage, total = f"{float(report.part_pj['leakage']) * 1e-3:,.1f}", _line("total", list(report.costs), report)
    idle = ["leakage", *[""] * (len(headings) - 2), leakage]
    return headings, [*lines, idle, [*total[:-1], f"{float(report.pj) * 1e-3:,.1f}"]]


def levels(report: Report) -> dict[str, dict[str, float]]:
    """Of each memory level: cycles in which it moves something, share of the step, stalls, bytes, picojoules.

    Levels work at once, so cycles do not add up. A buffer's width is that of the port it feeds; the gradient buffer
    reads and writes a sum for each lane of ``accumulate``. Stalls are off-chip memory's up to what it moves, and the
    rest stands with no level (ports of both edges, results that wait for a unit).
    """
    design, away = report.design, off_chip_stall_cycles(report)
    width = {
        "activation": design.array.row_port_bytes,
        "weight": design.array.col_port_bytes,
        "gradient": 2 * 4 * design.unit("accumulate").lanes,
        "dram": design.dram_bytes_per_cycle,
    }
    found = {}
    for level in LEVELS:
        nbytes = float(report.level_bytes[level])
        cycles = nbytes / width[level]
        found[level] = {
            "cycles": cycles,
            "stall_cycles": float(away) if level == "dram" else 0.0,
            "utilization": cycles / float(report.cycles),
            "bytes": nbytes,
            "pj": float(report.part_pj[level]),
        }
    return found


def _levels(report: Report) -> tuple[list[str], list[list[str]]]:
    lines = [
        [
            level,
            f"{line['cycles']:,.0f}",
            f"{line['stall_cycles']:,.0f}",
            f"{line['utilization']:.1%}",
            f"{line['bytes']:,.0f}",
            f"{line['pj'] * 1e-3:,.1f}",
        ]
        for level, line in levels(report).items()
    ]
    return ["level", "cycles", "stall_cycles", "utilization", "bytes", "nj"], lines


def _line(name: str, costs: list[Cost], report: Report) -> list[str]:
    cycles = sum(cost.cycles for cost in costs)
    elements = report.design.array.rows * report.design.array.cols
    busy = sum(cost.busy_cycles for cost in costs) / (cycles * elements) if cycles else 0.0
    moved = [sum(cost.level_bytes.get(level, 0) for cost in costs) for level in LEVELS]
    return [
        name,
        f"{float(cycles):,.0f}",
        f"{float(sum(cost.stall_cycles for cost in costs)):,.0f}",
        f"{float(busy):.1%}",
        *(f"{float(count):,.0f}" for count in moved),
        f"{float(sum(cost.pj for cost in costs)) * 1e-3:,.1f}",
    ]


def summary(report: Report) -> str:
    """The step in one line: time, energy with leakage, power, area."""
    area = float(sum(areas_mm2(report.design).values()))
    return (
        f"{report.workload} on {report.design.name}: {float(report.cycles):,.0f} cycles, "
        f"{figure(report.seconds * 1e3)} ms, "
        f"{figure(report.pj * 1e-6)} uJ ({figure(report.part_pj['leakage'] * 1e-6)} of it leakage), "
        f"{figure(report.watts)} W, "
        f"utilization {float(report.utilization):.1%}, {area:.2f} mm2"
    )


def figure(value: float, unit: str = "") -> str:
    """Four digits; a dash for what nobody knows."""
    if math.isnan(value):
        return "-"
    digits = max(0, 3 - math.floor(math.log10(value))) if value else 0
    return f"{value:,.{digits}f}{unit}"


def _flat(cost: Cost, report: Report) -> dict[str, Any]:
    elements = report.design.array.rows * report.design.array.cols
    return {
        "section": cost.section,
        "operation": cost.name,
        "layer": cost.layer,
        "phase": cost.phase,
        "stream": cost.stream,
        "kind": cost.kind,
        "stationary": str(cost.stationary),
        "cycles": int(cost.cycles),
        "stall_cycles": int(cost.stall_cycles),
        "busy_cycles": int(cost.busy_cycles),
        "utilization": float(cost.busy_cycles / (cost.cycles * elements)) if cost.cycles else 0.0,
        "products": cost.products,
        **{f"{level}_bytes": float(cost.level_bytes.get(level, 0)) for level in LEVELS},
        **{f"{part}_pj": float(cost.part_pj.get(part, 0)) for part in PARTS if part != "leakage"},
        "pj": float(cost.pj),
    }


def csv_text(report: Report) -> str:
    """Every operation a line."""
    lines = [_flat(cost, report) for cost in report.costs]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def json_text(report: Report) -> str:
    """Totals and every operation."""
    return json.dumps(
        {
            "workload": report.workload,
            "design": report.design.name,
            "cycles": int(report.cycles),
            "seconds": float(report.seconds),
            "utilization": float(report.utilization),
            "part_pj": {part: float(value) for part, value in report.part_pj.items()},
            "levels": levels(report),
            "area_mm2": {part: float(value) for part, value in areas_mm2(report.design).items()},
            "operations": [_flat(cost, report) for cost in report.costs],
        },
        indent=1,
    )
