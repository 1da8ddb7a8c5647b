"""What the results say: a line a row, and the comparisons that the paper claims."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..problems import get
from .rows import DEFAULT, DENSE_FLOAT, DIFFERENCE, NAIVE, SEQUENTIAL, Row

Result = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Line:
    """A row and the results of its seeds."""

    row: Row
    results: Sequence[Result]

    @property
    def errors(self) -> list[float]:
        """Relative L2 of the seeds that did not fail."""
        return [result["relative_l2"] for result in self.results if "failed" not in result]

    @property
    def mean(self) -> float:
        """Of the errors; infinite if a seed failed."""
        return statistics.mean(self.errors) if len(self.errors) == len(self.results) else float("inf")

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the errors; 0 of a single one."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else 0.0

    def milliseconds(self, cpu: str) -> float | None:
        """Processor time of a step, the median of the seeds that ran on ``cpu``; None if none did."""
        there = [result for result in self.results if result["environment"]["cpu"] == cpu]
        times = [time for result in there if (time := result.get("processor_ms_per_step")) is not None]
        return statistics.median(times) if times else None

    def unknown(self, name: str) -> list[float]:
        """What each seed found for an unknown coefficient."""
        return [result["unknowns"][name] for result in self.results if "failed" not in result]


@dataclass(frozen=True)
class Comparison:
    """One claim: how many times larger the error of ``worse`` is than that of ``better``; ``bar``: what it must be."""

    claim: str
    problem: str
    worse: str
    better: str
    ratio: float
    bar: float

    @property
    def holds(self) -> bool:
        return self.ratio >= self.bar


def processor(lines: Iterable[Line]) -> str:
    """That which most runs of the default row had; without one, of all rows."""
    all_rows = list(lines)
    counted = [line for line in all_rows if line.row.name == DEFAULT] or all_rows
    cpus: list[str] = [result["environment"]["cpu"] for line in counted for result in line.results]
    return statistics.mode(cpus)


def find(lines: Iterable[Line], problem: str, name: str) -> Line | None:
    """The line of a row, if it has results."""
    return next((line for line in lines if (line.row.problem, line.row.name) == (problem, name)), None)


def comparisons(lines: Sequence[Line]) -> list[Comparison]:
    """The claims that these results can tell."""
    found = []
    for problem in dict.fromkeys(line.row.problem for line in lines):
        for claim, worse, better, bar in (
            ("quantize differences, not points", NAIVE, DIFFERENCE, 2.0),
            ("contract partially, then quantize", SEQUENTIAL, DEFAULT, 1.0),
        ):
            left, right = find(lines, problem, worse), find(lines, problem, better)
            if left and right and (times := ratio(left, right)) is not None:
                found.append(Comparison(claim, problem, worse, better, times, bar))
    return found


def against_float(lines: Sequence[Line], line: Line) -> float | None:
    """A line's error as a ratio to dense float32 of the same problem; None if they share no seed."""
    yardstick = find(lines, line.row.problem, DENSE_FLOAT)
    return ratio(line, yardstick) if yardstick else None


def ratio(line: Line, other: Line) -> float | None:
    """Of their mean errors over the seeds that both have; None if there is none."""
    both = {result["seed"] for result in line.results} & {result["seed"] for result in other.results}
    if not both:
        return None
    above, below = (Line(one.row, [r for r in one.results if r["seed"] in both]).mean for one in (line, other))
    return above / below


def floors(problem: str) -> dict[str, float]:
    """Errors of the best constant and the best linear function."""
    return get(problem)().trivial_floor()
