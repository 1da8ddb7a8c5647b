"""What a training step costs by jets, and by jets whose second derivatives travel as their sum, one thread.

Every problem with its own defaults, in integers, and dense in float32. Times are the processor's, medians of rounds in
which both estimators take turns.

    pip install . && python benchmarks/estimators.py [poisson2d hjb20d poisson100d]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

from picopinn.estimators import STEPLESS
from picopinn.settings import FLOAT, Settings

ROUNDS = 15
FIRST = 3  # rounds that are not counted: a first step runs twice
PROBLEMS = ("poisson2d", "burgers1d", "hjb20d", "heat100d", "poisson100d")


def milliseconds(problem: str, **given: Any) -> list[float]:
    """A step's, by each estimator."""
    solvers = [Settings.of(problem, estimator=kind, **given).solver(1) for kind in STEPLESS]
    seen: list[list[float]] = [[] for _ in solvers]
    for _ in range(ROUNDS):
        for solver, times in zip(solvers, seen, strict=True):
            start = time.process_time()
            solver.step()
            times.append(time.process_time() - start)
    return [1e3 * statistics.median(times[FIRST:]) for times in seen]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=PROBLEMS)
    for problem in parser.parse_args().problems:
        for what, given in (("integers", {}), ("float32, dense", {"precision": FLOAT, "tt": None})):
            jet, summed = milliseconds(problem, **given)
            print(
                f"{problem:12} {what:15} jet {jet:7.2f} ms  laplacian {summed:7.2f} ms  {jet / summed:.2f}x", flush=True
            )


if __name__ == "__main__":
    main()
