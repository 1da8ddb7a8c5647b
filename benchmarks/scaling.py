"""What a training step costs as a problem grows: in dimensions, width, points and directions, one thread.

The problem is poisson2d's in D dimensions. Ours runs in integers, w8a8g12, hidden layers as tensor trains of rank 8,
with derivatives along K random orthogonal directions. PyTorch runs the dense network in float32 and sums the exact
Laplacian over all D by stacked automatic differentiation, as far as a step takes no longer than some seconds. Times are
the processor's, medians of rounds in which both take turns; exponents are fitted to the upper half of each range.
Without PyTorch (no dependency) ours is measured alone.

    pip install . torch && python benchmarks/scaling.py [--picture docs/scaling.png]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np

from picopinn import Estimator, Network, Problem, Solver
from picopinn.plots import figure, png
from picopinn.problems.field import Field, Floats

ROUNDS = 3
ROUND = 0.08  # seconds of a side
LIMIT = 2.0  # seconds a step, at which a side goes no further
OURS, TORCH = "picopinn", "PyTorch"
COLOURS = {OURS: "#1f5fa8", TORCH: "#d9731a"}


@dataclass(frozen=True)
class Size:
    """Of a step."""

    dimensions: int = 16
    width: int = 256
    points: int = 100
    directions: int = 16


@dataclass(frozen=True)
class Sweep:
    """One field of ``Size`` at these values, the others as in ``base``."""

    field: str
    label: str
    values: tuple[int, ...]
    base: Size = Size()

    def sizes(self) -> list[Size]:
        sizes = [replace(self.base, **{self.field: value}) for value in self.values]
        return [replace(size, directions=min(size.directions, size.dimensions)) for size in sizes]


SWEEPS = (
    Sweep("dimensions", "dimensions D, K = 16 at most", (2, 5, 10, 20, 50, 100, 200, 500, 1000)),
    Sweep("width", "width, D = K = 16", (64, 144, 256, 576, 1024)),
    Sweep("points", "points inside, and on the boundary", (16, 48, 100, 200, 400, 800)),
    Sweep("directions", "directions K, D = 64", (1, 2, 4, 8, 16, 32, 64), Size(dimensions=64)),
)


class Sines(Problem):
    """lap u = -sin(x1 + ... + xD), as if D were 2: what it costs does not depend on that."""

    boundary_weight = 300.0

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def residual(self, x: Floats, u: Field) -> Floats:
        return u.laplacian + np.sin(x.sum(axis=1))

    def solution(self, x: Floats) -> Floats:
        return np.sin(x.sum(axis=1)) / 2


def ours(size: Size) -> Callable[[], object]:
    side = int(np.sqrt(size.width))
    network = Network(size.dimensions, hidden=size.width, tt=(side, side))
    estimator = Estimator("jet", directions=size.directions)
    return Solver(Sines(size.dimensions), network, estimator, steps=10**9, batch=size.points, threads=1).step


def torch_step(size: Size) -> Callable[[], object]:
    from torch_baselines.poisson2d import training
    from torch_baselines.stacked import Stacked

    model = Stacked(Network(size.dimensions, hidden=size.width, tt=None))
    return training(model, size.points, problem=Sines(size.dimensions))


def sides() -> dict[str, Callable[[Size], Callable[[], object]]]:
    try:
        import torch
    except ImportError:
        return {OURS: ours}
    torch.set_num_threads(1)
    return {OURS: ours, TORCH: torch_step}


def seconds(step: Callable[[], object], count: int = 1) -> float:
    """Of the processor, a step."""
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) / count


def measured(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds a step of each side, all of which take turns."""
    firsts = {}
    for name, step in steps.items():
        step()  # warm; ours runs twice, to find the scale of its gradients
        firsts[name] = seconds(step)
    rounds = [
        {name: seconds(step, max(1, int(ROUND / firsts[name]))) for name, step in steps.items()} for _ in range(ROUNDS)
    ]
    return {name: statistics.median(r[name] for r in rounds) for name in steps}


def run(sweep: Sweep) -> dict[str, list[float]]:
    """Seconds of each side, as many values as it came to."""
    times: dict[str, list[float]] = {name: [] for name in sides()}
    for value, size in zip(sweep.values, sweep.sizes(), strict=True):
        # PyTorch takes all dimensions, whatever the directions: one time will do
        going = {
            n: t for n, t in times.items() if n == OURS or not t or (t[-1] < LIMIT and sweep.field != "directions")
        }
        found = measured({name: sides()[name](size) for name in going})
        for name, took in found.items():
            times[name].append(took)
        print(f"{sweep.field:12}{value:6}" + "".join(f"  {n} {t * 1e3:10.3f} ms" for n, t in found.items()), flush=True)
    return times


def exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """p and c of y = c x^p, least squares in logarithms over the upper half of the range."""
    half = len(x) // 2
    p, c = np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)
    return float(p), float(np.exp(c))


def draw(panel: object, sweep: Sweep, times: dict[str, list[float]]) -> None:
    for name, took in times.items():
        x = np.array(sweep.values[: len(took)], float)
        if len(took) == 1:
            panel.axhline(took[0] * 1e3, color=COLOURS[name], linestyle=":", label=f"{name}, all D")
            continue
        p, c = exponent(x, took)
        print(f"{name}: time of a step ~ {sweep.field}^{p:.2f}")
        panel.loglog(x, np.array(took) * 1e3, "o", color=COLOURS[name], markersize=5)
        end = x[len(x) // 2 :]
        panel.loglog(end, c * end**p * 1e3, color=COLOURS[name], label=f"{name}, exponent {p:.2f}")
    panel.set(xlabel=sweep.label, ylabel="ms a step", xscale="log", yscale="log")
    panel.set_xticks(sweep.values, map(str, sweep.values))
    panel.set_xticks([], minor=True)
    panel.grid(color="#e3e5e8", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of a training step against its sizes")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = parser.parse_args()
    picture = figure(11, 7.5)
    for panel, sweep in zip(picture.subplots(2, 2).flat, SWEEPS, strict=True):
        draw(panel, sweep, run(sweep))
    if options.picture:
        options.picture.write_bytes(png(picture))


if __name__ == "__main__":
    main()
