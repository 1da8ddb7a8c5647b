"""Does PyTorch's fake quantization agree with the C, in every tensor that a first step quantizes?

``exact`` (``torch_baselines/exact.py``) follows docs/spec.md in floats, and must agree to the last bit; else this exits
with 1. ``plain`` (``quantized.py``) is what a person writes. It rounds to the same blocks, but where a number lies near
the middle of two neighbours it may take the other one; the table counts how many do, and by how many units of their
block at most. Causes, in the order in which they come:

* matrices: none so far, though the C's contraction of cores aligns its terms to the largest exponent, and ties go away
  from zero, not to even;
* input 1: the C's tanh and sine are tables of 15 bits, read at a pre-activation of 16 bits;
* later inputs: products align their terms, and what differs in one layer moves all sums of the next;
* cotangents: the C rounds them up or down by random numbers that are a hash of seed, step and place. Other numbers give
  other cotangents, of the same mean: most differ. Those of the last stage are rounded to the nearest, and equal.

The C does not show cotangents but their sums, the gradients. They are compared with the NumPy oracle's, whose gradients
are those of the C in this very step. ``--write`` makes tests/vectors/first_step.npz of the last case from ``exact``;
without it that file is checked.

    pip install . torch && python benchmarks/first_step.py [--steps 5] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_baselines import probe
from torch_baselines.engine import TorchEngine
from torch_baselines.exact import Exact
from torch_baselines.model import Stage
from torch_baselines.quantized import Quantized
from torch_baselines.smx import block_exponent, tiles

from picopinn import Estimator, Network, Precision, Problem, Solver
from picopinn.engine import Pass
from picopinn.network import Floats
from picopinn.problems import Field, get

VECTORS = Path(__file__).parents[1] / "tests" / "vectors" / "first_step.npz"


class Bowl(Problem):
    """lap u = 1 in 20 dimensions."""

    name = "bowl20d"
    dimensions = 20

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        return u.laplacian - 1.0

    def solution(self, x: Floats) -> Floats:
        return (x**2).sum(axis=1) / 40


@dataclass(frozen=True)
class Case:
    """A run whose first step is compared."""

    problem: Problem
    network: Network
    precision: str = "w8a8g12"
    directions: int | None = None
    batch: int = 100
    seed: int = 0

    def __str__(self) -> str:
        layers = "dense" if self.network.tt is None else f"TT {'x'.join(map(str, self.network.tt))}"
        sizes = "-".join(map(str, self.network.sizes))
        return f"{self.problem.name}, {sizes} {layers} {self.network.activation}, {self.precision}, batch {self.batch}"

    @property
    def widths(self) -> Precision:
        return Precision.parse(self.precision)

    def solver(self, engine: TorchEngine | None = None) -> Solver:
        estimator = Estimator("jet", directions=self.directions)
        return Solver(
            self.problem, self.network, estimator, self.precision, batch=self.batch, seed=self.seed, engine=engine
        )


SMALL = Case(get("poisson2d")(), Network(2, hidden=24, layers=3, tt=(2, 3, 4), rank=3), batch=6, seed=7)
CASES = [
    Case(get("poisson2d")(), Network(2)),
    Case(get("poisson2d")(), Network(2, hidden=64, tt=None, activation="sine"), "w8a8b12g12", batch=30),
    Case(Bowl(), Network(20, hidden=64, tt=(8, 8), activation="sine"), "w6a8g10", directions=4, batch=50),
    SMALL,
]


class Plain(Quantized):
    """Remembers what it quantizes, (S, n, width) by the names of ``probe``."""

    def stages(self) -> list[Stage]:
        self.seen: dict[str, Tensor] = {}
        self._counts: list[int] = []  # products of each forward
        return super().stages()

    def streams(self, stages: Sequence[Stage], x: Tensor, directions: Tensor | None) -> Tensor:
        self._counts.append(0)
        return super().streams(stages, x, directions)

    def product(self, stage: Stage, z: Tensor) -> Tensor:
        where = f"{self._counts[-1]} {probe.PASSES[len(self._counts) - 1]}"
        self._counts[-1] += 1
        self.seen[f"input {where}"] = z
        result = super().product(stage, z)
        result.register_hook(lambda c: self.seen.update({f"cotangent {where}": c}))
        return result


class Watched(TorchEngine):
    """Remembers the passes of the last step."""

    passes: Sequence[Pass] = ()

    def gradient(self, passes: Sequence[Pass], step: int) -> Floats:
        self.passes = passes
        return super().gradient(passes, step)


def first_step(case: Case) -> tuple[Floats, Sequence[Pass]]:
    """The initial weights and the passes of a run's first step."""
    engine = Watched(Quantized(case.network, case.widths))
    solver = case.solver(engine)
    master = solver.master.copy()
    solver.step()
    return master, engine.passes


def of_exact(
    network: Network, precision: Precision, seed: int, master: Floats, passes: Sequence[Pass]
) -> probe.Answers:
    """What ``exact`` answers, names as in ``probe``."""
    model = Exact(network, precision, seed)
    found = _answers(TorchEngine(model), master, passes)
    for name, run in zip(probe.PASSES, model.runs, strict=True):
        found |= {f"input {i} {name}": x.numpy() for i, x in enumerate(run.inputs) if i}
        found |= {f"cotangent {i} {name}": c.numpy() for i, c in enumerate(run.cotangents)}
    return found | {"units": np.array(list(model.scaling.units.values()))}


def of_plain(
    network: Network, precision: Precision, seed: int, master: Floats, passes: Sequence[Pass]
) -> probe.Answers:
    """What ``quantized`` answers; it has no units."""
    torch.manual_seed(seed)
    model = Plain(network, precision)
    found = _answers(TorchEngine(model), master, passes)
    return found | {name: _blocks(x) for name, x in model.seen.items()}


def _answers(engine: TorchEngine, master: Floats, passes: Sequence[Pass]) -> probe.Answers:
    engine.load(master)
    found = {f"streams {n}": engine.forward(p.points, p.directions) for n, p in zip(probe.PASSES, passes, strict=True)}
    found["gradient"] = engine.gradient(passes, 0)
    return found | {f"matrix {i}": _blocks(stage.matrix[None]) for i, stage in enumerate(engine.stages)}


def _blocks(x: Tensor) -> Floats:
    return tiles(x.detach()).double().numpy()


def compare(case: Case) -> int:
    """Print the table of one case; the numbers in which ``exact`` differs."""
    master, passes = first_step(case)
    step = case.network, case.widths, case.seed, master, passes
    exact, plain = of_exact(*step), of_plain(*step)
    expected = probe.of_kernels(*step)
    expected |= {name: x for name, x in probe.of_oracle(*step).items() if name not in expected}
    wrong = probe.differing(exact, expected)
    print(f"\n{case}\n{'':22}{'numbers':>9}{'exact: differ':>15}{'plain: differ':>15}{'units':>7}{'norm':>10}")
    for name, count in sorted(wrong.items()):
        compared = deviation(name, plain[name], expected[name], case.widths) if name in plain else ""
        print(f"{name:22}{expected[name].size:9}{count:15}{compared}")
    return sum(wrong.values())


def deviation(name: str, found: Floats, expected: Floats, precision: Precision) -> str:
    """The share that differs; by how many units of its block at most; the difference's norm by that of all."""
    share = (found != expected).mean()
    norm = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    most = f"{_units(found - expected, expected, _bits(name, precision)):.0f}" if expected.ndim == 5 else ""
    return f"{share:15.2%}{most:>7}{norm:10.1e}"


def _bits(name: str, precision: Precision) -> NDArray[Any]:
    """The width of what is called so, by stream."""
    widths = {"matrix": [precision.weights], "cotangent": [precision.gradients]}
    streams = [precision.base] + [precision.activations] * 100
    return np.array(widths.get(name.split()[0], streams))


def _units(difference: Floats, expected: Floats, bits: NDArray[Any]) -> float:
    of_streams = np.broadcast_to(bits[: len(expected)].reshape(-1, 1, 1, 1, 1), (len(expected), 1, 1, 1, 1))
    scale = torch.exp2(block_exponent(torch.from_numpy(expected), torch.tensor(of_streams)).double()).numpy()
    return float(np.abs(difference / scale).max())


def compare_runs(case: Case, steps: int) -> int:
    """Print whether the weights are the same after some steps; in how many they differ."""
    ours, theirs = case.solver(), case.solver(TorchEngine(Exact(case.network, case.widths, case.seed)))
    for _ in range(steps):
        ours.step()
        theirs.step()
    count = int((ours.master != theirs.master).sum())
    print(f"{f'weights after {steps} steps':22}{ours.master.size:9}{count:15}")
    return count


def write_vectors() -> None:
    """The small case, its inputs and what ``exact`` makes of them."""
    master, passes = first_step(SMALL)
    run = json.dumps({"network": asdict(SMALL.network), "precision": SMALL.precision, "seed": SMALL.seed})
    given: probe.Answers = {"run": np.array(run), "master": master, "directions": passes[0].directions}
    for name, one in zip(probe.PASSES, passes, strict=True):
        given |= {f"points {name}": one.points, f"cotangents {name}": one.cotangents}
    answers = of_exact(SMALL.network, SMALL.widths, SMALL.seed, master, passes)
    np.savez_compressed(VECTORS, **given, **{f"answer: {name}": values for name, values in answers.items()})
    print(f"{VECTORS}: {VECTORS.stat().st_size} bytes")


def check_vectors() -> int:
    """Print whether the committed file holds what ``exact`` makes of its inputs; in how many numbers it does not."""
    step, answers = probe.read(VECTORS)
    count = sum(probe.differing(of_exact(*step), answers).values())
    print(f"\n{VECTORS.name}: {count} numbers differ from what exact answers")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch's fake quantization against the C, bit by bit")
    parser.add_argument("--steps", type=int, default=5, help="of the run whose weights are compared")
    parser.add_argument("--write", action="store_true", help="make the vectors of the tests anew")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.write:
        write_vectors()
    wrong = check_vectors() + sum(compare(case) + compare_runs(case, asked.steps) for case in CASES)
    if wrong:
        sys.exit(f"{wrong} numbers differ between PyTorch and the C")


if __name__ == "__main__":
    main()
