"""Relative L2 error of poisson2d over seeds: integers and their dense float32 yardstick, ablations, in one table.

Every row is ``picopinn train poisson2d`` with the options it shows; seeds 0 to 4, 2000 steps.

    python benchmarks/accuracy.py [--seeds 5] [--only TEXT] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from picopinn.settings import Settings


@dataclass(frozen=True)
class Row:
    """What a row trains; ``options`` are those of :class:`Settings`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    seeds: int | None = None  # fewer than asked for, where a run is slow and the answer plain


STEIN = {"estimator": "orthogonal", "sigma": 0.01}
ROWS = [
    Row("default: w8a8g12, TT 16x16 rank 8, jet"),
    Row("dense float32, same learning rate", {"precision": "float32", "tt": None}),
    Row("dense float32, learning rate 1e-3", {"precision": "float32", "tt": None, "learning_rate": 1e-3}),
    Row("default, learning rate 1e-3", {"learning_rate": 1e-3}),
    Row("w8a8b12g12", {"precision": "w8a8b12g12"}),
    Row("w8a12g12", {"precision": "w8a12g12"}),
    Row("w8a8g8", {"precision": "w8a8g8"}),
    Row("w8a6g12", {"precision": "w8a6g12"}),
    Row("w6a8g12", {"precision": "w6a8g12"}),
    Row("core by core", {"contraction": "sequential"}),
    Row("orthogonal steps 0.01, odd-even", STEIN | {"quantization": "odd-even"}),
    Row("orthogonal steps 0.01, difference", STEIN | {"quantization": "difference"}),
    Row("orthogonal steps 0.01, naive", STEIN | {"quantization": "naive"}, seeds=2),
]


def train(options: dict[str, Any], seed: int, threads: int) -> float:
    """The error of one run."""
    solver = Settings("poisson2d", seed=seed, **options).solver(threads)
    solver.train()
    return solver.evaluate()


def main() -> None:
    parser = argparse.ArgumentParser(description="relative L2 of poisson2d")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    print(f"{'':38}{'mean':>10}{'std':>10}{'min':>10}{'max':>10}{'s/run':>8}")
    for row in ROWS:
        if asked.only not in row.name:
            continue
        start, count = time.perf_counter(), min(asked.seeds, row.seeds or asked.seeds)
        errors = [train(row.options, seed, asked.threads) for seed in range(count)]
        figures = (statistics.mean(errors), statistics.pstdev(errors), min(errors), max(errors))
        seconds = (time.perf_counter() - start) / count
        print(f"{row.name:38}" + "".join(f"{x:10.2e}" for x in figures) + f"{seconds:8.1f}  {count} seeds", flush=True)


if __name__ == "__main__":
    main()
