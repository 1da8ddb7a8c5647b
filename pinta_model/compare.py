"""From a dense float32 network on a GPU to the accelerator, one change after the other: what each gains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
        seconds, joules: of the step.
        limit: what decides the time.
        report: the model's, for the accelerator.
    """

    name: str
    change: str
    seconds: float
    joules: float
    limit: str
    report: Report | None = None


GPU_RUNGS = (
    ("dense ad", "GPU, dense, AD, float32", "baseline"),
    ("dense se", "GPU, dense, SE, float32", "SE"),
    ("tt se", "GPU, TT, SE, float32", "TT"),
    ("tt jet", "GPU, TT, jets, float32", "jets"),
)


def ladder(problem: str, steps: Iterable[tuple[str, str, Workload]], design: Architecture) -> list[Rung]:
    """The GPU's ways, then ``steps`` (name, change, workload) on the accelerator.

    Raises:
        PintaError: the problem's steps on a GPU were not counted.
    """
    card, rungs = gpu(), []
    for variant, name, change in GPU_RUNGS:
        counted = eager(problem, variant)
        seconds, limit = card.seconds(counted)
        rungs.append(Rung(name, change, seconds, card.joules(counted), limit))
    for name, change, workload in steps:
        report = evaluate(workload, design)
        limit = str(bottlenecks(report, 1)[0])
        rungs.append(Rung(name, change, float(report.seconds), float(report.pj) * 1e-12, limit, report))
    return rungs
