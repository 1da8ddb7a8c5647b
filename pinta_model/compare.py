"""From a dense float32 network on a GPU to the accelerator, one change after the other: what each gains.

A CPU and, if the caller knows its cycles, a microcontroller stand beside the ladder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan

from .architecture import Architecture
from .baselines import eager, gpu
from .explore import bottlenecks
from .model import Report, evaluate
from .workload import Workload


@dataclass(frozen=True)
class Rung:
    """A way to take one training step.

    Attributes:
        name: what it is.
        change: what is new against the rung before; empty for one that stands beside the ladder.
        seconds, joules: of the step; joules are nan where nobody knows the machine's power.
        limit: what decides the time.
        report: the model's, for the accelerator.
    """

    name: str
    change: str
    seconds: float
    joules: float
    limit: str
    report: Report | None = None


EAGER = (
    ("dense ad", "dense, AD, float32", "baseline"),
    ("dense se", "dense, SE, float32", "SE"),
    ("tt se", "TT, SE, float32", "TT"),
    ("tt jet", "TT, jets, float32", "jets"),
)


def ladder(
    problem: str, steps: Iterable[tuple[str, str, Workload]], design: Architecture, beside: Iterable[Rung] = ()
) -> list[Rung]:
    """The GPU's ways, those of the CPU, ``beside``, then ``steps`` (name, change, workload) on the accelerator.

    Raises:
        PintaError: the problem's steps in an eager framework were not counted.
    """
    card, gpu_rungs, cpu_rungs = gpu(), [], []
    for variant, name, change in EAGER:
        counted = eager(problem, variant)
        seconds, limit = card.seconds(counted)
        gpu_rungs.append(Rung(f"GPU, {name}", change, seconds, card.joules(counted), limit))
        cpu_rungs.append(Rung(f"CPU, {name}", "", counted.cpu_seconds, nan, "measured"))
    return [*gpu_rungs, *cpu_rungs, *beside, *(_on_chip(name, change, step, design) for name, change, step in steps)]


def _on_chip(name: str, change: str, workload: Workload, design: Architecture) -> Rung:
    report = evaluate(workload, design)
    limit = str(bottlenecks(report))
    return Rung(name, change, float(report.seconds), float(report.pj) * 1e-12, limit, report)
