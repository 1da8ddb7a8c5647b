"""Does PyTorch's fake quantization agree with the C, in every tensor that a first step quantizes?

``exact`` (``torch_baselines/exact.py``) follows docs/spec.md in floats, and must agree to the last bit; else this exits
with 1. ``plain`` (``quantized.py``) is what a person writes. It rounds to the same blocks, but where a number lies near
the middle of two neighbours it may take the other one. The table counts how many do; how many would (``alone``) if the
stage before were given what the C gives it; by how many units of their block they differ at most; and the difference by
norm. Causes, in the order in which they come:

* matrices: none so far, though the C's contraction of cores aligns its terms to the largest exponent, and ties go away
  from zero, not to even;
* input 1: the C's tanh and sine are tables of 15 bits, read at a pre-activation of 16 bits;
* later inputs: the C's products align their terms; and what differs in one layer moves all sums of the next, which is
  most of it;
* cotangents: the C rounds them up or down by random numbers that are a hash of seed, step and place. Other numbers give
  other cotangents, of the same mean: most differ. Those of the last stage are rounded to the nearest, and equal.

The C does not show cotangents but their sums, the gradients. They are compared with the NumPy oracle's, whose gradients
are those of the C in this very step. The float32 baselines are compared with NumPy's float64 in the same step, and must
agree to rounding. ``--write`` makes tests/vectors/first_step.npz of the last case from ``exact``; without it that file
is checked.

    pip install . torch && python benchmarks/first_step.py [--steps 5] [--random 20] [--write]
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
from torch_baselines.quantized import Quantized, inputs
from torch_baselines.smx import block_exponent, tiles, untiled
from torch_baselines.stacked import Stacked
from torch_baselines.taylor import Taylor

from picopinn import Estimator, Network, Precision, Problem, Solver
from picopinn.engine import Engine, Pass
from picopinn.floating import FloatEngine
from picopinn.integer import IntegerEngine
from picopinn.network import ACTIVATIONS, Floats
from picopinn.problems import Field, get

FLOAT32 = 1e-4  # distances that rounding to 24 bits explains
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


SHAPES = [(13, None), (20, None), (12, (12,)), (16, (4, 4)), (24, (2, 3, 4)), (24, (2, 1, 3, 4))]  # hidden, tt


class Watched(TorchEngine):
    """Remembers the passes of the last step."""

    passes: Sequence[Pass] = ()

    def gradient(self, passes: Sequence[Pass], step: int) -> Floats:
        self.passes = passes
        return super().gradient(passes, step)


def first_step(case: Case, trained: int = 0) -> tuple[Floats, Sequence[Pass]]:
    """The weights, initial or already trained for some steps, and the passes of a step there."""
    engine = Watched(Quantized(case.network, case.widths))
    solver = case.solver(engine)
    for _ in range(trained):
        solver.step()
    master = solver.master.copy()
    solver.step()
    return master, engine.passes


def of_exact(
    network: Network, precision: Precision, seed: int, master: Floats, passes: Sequence[Pass]
) -> probe.Answers:
    """What ``exact`` answers, names as in ``probe``."""
    model = Exact(network, precision, seed)
    engine = TorchEngine(model)
    found = _answers(engine, master, passes) | _matrices(engine)
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
    engine = TorchEngine(model)
    found = _answers(engine, master, passes) | _matrices(engine)
    return found | {name: _blocks(x) for name, x in model.seen.items()}


@torch.no_grad()
def of_plain_alone(
    network: Network, precision: Precision, seed: int, master: Floats, passes: Sequence[Pass], exact: probe.Answers
) -> probe.Answers:
    """What every stage of ``quantized`` makes of the very input that ``exact`` has there."""
    model, found = Quantized(network, precision), {}
    model.load(master)
    for name, one in zip(probe.PASSES, passes, strict=True):
        x = inputs(torch.from_numpy(one.points), None if one.directions is None else torch.from_numpy(one.directions))
        for i, stage in enumerate(model.stages()[:-1], 1):
            found[f"input {i} {name}"] = _blocks(model.next_input(stage, model.product(stage, x.float())))
            x = untiled(torch.from_numpy(exact[f"input {i} {name}"]), x.shape[1], stage.matrix.shape[1])
    return found


def _answers(engine: Engine, master: Floats, passes: Sequence[Pass]) -> probe.Answers:
    engine.load(master)
    found = {f"streams {n}": engine.forward(p.points, p.directions) for n, p in zip(probe.PASSES, passes, strict=True)}
    found["gradient"] = engine.gradient(passes, 0)
    return found


def _matrices(engine: TorchEngine) -> probe.Answers:
    return {f"matrix {i}": _blocks(stage.matrix[None]) for i, stage in enumerate(engine.stages)}


def _blocks(x: Tensor) -> Floats:
    return tiles(x.detach()).double().numpy()


def compare(case: Case) -> int:
    """Print the table of one case; the numbers in which ``exact`` differs."""
    master, passes = first_step(case)
    step = case.network, case.widths, case.seed, master, passes
    exact, plain = of_exact(*step), of_plain(*step)
    alone = of_plain_alone(*step, exact)
    expected = probe.of_kernels(*step)
    expected |= {name: x for name, x in probe.of_oracle(*step).items() if name not in expected}
    wrong = probe.differing(exact, expected)
    print(
        f"\n{case}\n{'':22}{'numbers':>9}{'exact: differ':>15}{'plain: differ':>15}{'alone':>8}{'units':>7}{'norm':>10}"
    )
    for name, count in sorted(wrong.items()):
        line = f"{name:22}{expected[name].size:9}{count:15}"
        if name in plain:
            own = f"{(alone[name] != expected[name]).mean():.2%}" if name in alone else ""
            line += f"{(plain[name] != expected[name]).mean():15.2%}{own:>8}"
            line += deviation(name, plain[name], expected[name], case.widths)
        print(line)
    return sum(wrong.values())


def deviation(name: str, found: Floats, expected: Floats, precision: Precision) -> str:
    """By how many units of its block a number differs at most; the difference's norm by that of all."""
    most = ""
    if expected.ndim == 5:
        streams = [precision.base] + [precision.activations] * (len(expected) - 1)
        widths = {"matrix": [precision.weights], "cotangent": [precision.gradients]}.get(name.split()[0], streams)
        exponents = block_exponent(torch.from_numpy(expected), torch.tensor(widths).view(-1, 1, 1, 1, 1))
        most = f"{np.abs((found - expected) / torch.exp2(exponents.double()).numpy()).max():.0f}"
    return f"{most:>7}{norm(found - expected, expected):10.1e}"


def norm(difference: Floats, whole: Floats) -> float:
    return float(np.linalg.norm(difference) / np.linalg.norm(whole))


def compare_runs(case: Case, steps: int) -> int:
    """Print whether the weights are the same after some steps; in how many they differ."""
    ours, theirs = case.solver(), case.solver(TorchEngine(Exact(case.network, case.widths, case.seed)))
    for _ in range(steps):
        ours.step()
        theirs.step()
    count = int((ours.master != theirs.master).sum())
    print(f"{f'weights after {steps} steps':22}{ours.master.size:9}{count:15}")
    return count


def compare_random(count: int) -> int:
    """Print how many of so many random networks and widths differ anywhere in their first two steps."""
    wrong = [seed for seed in range(count) if _random_steps_differ(seed)]
    print(f"\n{count} random networks, widths and points: {len(wrong)} differ {wrong or ''}")
    return len(wrong)


def _random_steps_differ(seed: int) -> bool:
    rng = np.random.default_rng(seed)
    hidden, tt = SHAPES[rng.integers(len(SHAPES))]
    dimensions, directions = int(rng.choice([1, 2, 3, 5, 20, 300])), int(rng.integers(1, 4))
    layers, rank = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    network = Network(dimensions, 1, hidden, layers, tt, rank, ACTIVATIONS[rng.integers(2)])
    precision = Precision(*(int(bits) for bits in rng.integers(4, 17, 5)))
    tensors = [t if t.ndim > 1 else rng.normal(0, 0.3, t.shape) for t in network.initial(rng)]
    master = np.concatenate([t.ravel() for t in tensors]) * rng.choice([0.3, 1.0, 3.0])
    points = [rng.random((int(n), dimensions)) * rng.choice([1.0, 10.0]) for n in rng.integers(1, 11, 2)]
    along = rng.normal(size=(directions, dimensions)) * rng.choice([0.01, 1.0, 4.0])
    slopes = [rng.normal(size=(len(points[0]), 1 + 2 * directions)) * 1e3, rng.normal(size=(len(points[1]), 1))]

    def answers(engine: Engine) -> list[Floats]:
        engine.load(master)
        inside, edge, d = engine.snap(points[0]), engine.snap(points[1]), engine.snap_directions(along)
        streams = [engine.forward(inside, d), engine.forward(edge, None)]
        passes = [Pass(inside, d, slopes[0]), Pass(edge, None, slopes[1])]
        return [inside, edge, d, *streams, *(engine.gradient(passes, step) for step in (0, 1))]

    integers = IntegerEngine(network, precision, "jet", seed=seed)
    pairs = zip(answers(integers), answers(TorchEngine(Exact(network, precision, seed))), strict=True)
    return any(not np.array_equal(*pair) for pair in pairs)


def compare_floats(case: Case) -> int:
    """Print how far the float32 baselines are from float64, by norm; how many results are further than rounding."""
    master, passes = first_step(case)
    expected = _answers(FloatEngine(case.network, "jet", np.float64), master, passes)
    expected["laplacian"] = 2 * expected["streams inside"][:, 2::2].sum(axis=1)
    wrong = 0
    for model in (Stacked(case.network), Taylor(case.network)):
        engine = TorchEngine(model)
        found = _answers(engine, master, passes)
        if len(passes[0].directions) == case.problem.dimensions:  # else there is no exact one to compare with
            x = torch.tensor(passes[0].points, dtype=torch.float32)
            found["laplacian"] = model.laplacian(engine.stages, x).detach().double().numpy()
        distances = {name: norm(values - expected[name], expected[name]) for name, values in found.items()}
        wrong += sum(not distance < FLOAT32 for distance in distances.values())
        print(f"{type(model).__name__.lower():22}{', '.join(f'{name} {far:.0e}' for name, far in distances.items())}")
    return wrong


def write_vectors() -> None:
    """The small case, its inputs and what ``exact`` makes of them; with trained weights, as initial biases are zero."""
    master, passes = first_step(SMALL, trained=20)
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
    parser.add_argument("--random", type=int, default=20, help="networks that are compared beside the cases")
    parser.add_argument("--write", action="store_true", help="make the vectors of the tests anew")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.write:
        write_vectors()
    wrong = check_vectors() + sum(
        compare(case) + compare_runs(case, asked.steps) + compare_floats(case) for case in CASES
    )
    wrong += compare_random(asked.random)
    if wrong:
        sys.exit(f"{wrong} results of PyTorch differ from ours")


if __name__ == "__main__":
    main()
