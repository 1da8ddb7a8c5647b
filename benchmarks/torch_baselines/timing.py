"""Medians of rounds in which all sides take turns, so that other programs disturb all alike (needs no PyTorch)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 5


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step of every side in every round."""
    for step in sides.values():
        _seconds(step, WARM_UP)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, step in sides.items():
            times[name].append(_seconds(step, steps))
    return times


def _seconds(step: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def against(times: Mapping[str, list[float]], yardstick: str) -> dict[str, str]:
    """A line for every side: milliseconds a step, and how many times the yardstick's, round by round."""
    lines = {}
    for name, measured in times.items():
        ratios = [one / other for one, other in zip(measured, times[yardstick], strict=True)]
        lines[name] = (
            f"{statistics.median(measured) * 1e3:9.3f} ms"
            f"{statistics.median(ratios):9.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return lines
