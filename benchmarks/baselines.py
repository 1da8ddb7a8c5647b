"""One problem, trained by PyTorch's baselines and by picopinn: relative L2 after so many steps, and the time of a step.

Every row is a :class:`picopinn.Solver` with another engine, so that initial weights, points, directions, residual, Adam
and learning rate are the same for all; settings are those of ``picopinn train PROBLEM``. Dense rows have their own
initial weights, the same for all dense rows. Times are medians of rounds in which all rows take turns, each a whole
step with the residual in NumPy; for poisson2d in PyTorch alone see ``training_step.py``. On a machine with other work,
OMP_WAIT_POLICY=PASSIVE keeps two threads of PyTorch from spinning.

    pip install . torch && python benchmarks/baselines.py [poisson2d] [--steps 2000] [--seeds 1] [--threads 1]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picopinn import Solver
    from picopinn.engine import Engine
    from picopinn.settings import Settings

OURS = "picopinn, integers"


@dataclass(frozen=True)
class Row:
    """A network and what runs it: ``engine`` of settings, or None for the solver's own at the settings' precision."""

    settings: Settings
    engine: Callable[[Settings], Engine] | None = None

    def solver(self, threads: int, **changes: Any) -> Solver:
        settings = replace(self.settings, **changes)
        solver = settings.solver(threads)
        if self.engine is not None:
            solver.engine = self.engine(settings)
        return solver

    def error(self, threads: int, seed: int) -> float:
        """Relative L2 after all steps."""
        solver = self.solver(threads, seed=seed)
        solver.train()
        return solver.evaluate()


def rows(problem: str, steps: int) -> dict[str, Row]:
    """All rows; PyTorch is imported here, after the environment says how many threads there are."""
    try:
        import torch
    except ImportError:
        raise SystemExit("this compares with PyTorch, which is no dependency: pip install torch") from None
    from torch_baselines.engine import TorchEngine
    from torch_baselines.quantized import Quantized
    from torch_baselines.stacked import Stacked
    from torch_baselines.taylor import Taylor

    from picopinn.settings import Settings

    torch.manual_seed(0)
    small = Settings.of(problem, steps=steps)
    dense = replace(small, tt=None, precision="float32")
    return {
        "torch stacked autograd, dense": Row(dense, lambda s: TorchEngine(Stacked(s.network()))),
        "torch Taylor mode, dense": Row(dense, lambda s: TorchEngine(Taylor(s.network()))),
        "torch fake-quantized": Row(small, lambda s: TorchEngine(Quantized(s.network(), s.widths()))),
        "picopinn, float32, dense": Row(dense),
        OURS: Row(small),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch's baselines and picopinn on one problem")
    parser.add_argument("problem", nargs="?", default="poisson2d")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    from torch_baselines.timing import against, take_turns

    table = rows(asked.problem, asked.steps)
    steps = {name: row.solver(asked.threads, steps=10**9).step for name, row in table.items()}
    times = against(take_turns(steps, asked.rounds, 10), OURS)
    print(f"{asked.problem}: {asked.steps} steps, seeds 0 to {asked.seeds - 1}; a step with {asked.threads} threads")
    print(f"{'':30}{'parameters':>11}{'relative L2':>13}{'a step':>12}{'against integers':>22}")
    for name, row in table.items():
        errors = [row.error(asked.threads, seed) for seed in range(asked.seeds)]
        parameters = row.settings.network().parameters
        print(f"{name:30}{parameters:11,}{statistics.mean(errors):13.2e}{times[name]}", flush=True)


if __name__ == "__main__":
    main()
