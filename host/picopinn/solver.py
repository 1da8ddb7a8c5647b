"""Training: points and directions go out, streams come back; cotangents go out, gradients come back; Adam steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, Pass
from .errors import PicopinnError, UsageError
from .estimators import Estimator
from .floating import FloatEngine
from .network import DEFAULT_PRECISION, Floats, Mode, Network, Precision
from .optim import DEFAULT_LEARNING_RATE, Adam
from .problems import Field, Problem, check, linearize, relative_l2

_WEIGHTS, _STEPS = 0, 1  # streams of random numbers of one seed
_AHEAD = 16  # steps whose points are drawn together
_PREDICT = 1024  # points a forward; a multiple of 4, so that blocks do not depend on it


@dataclass(frozen=True)
class Progress:
    """What a step found: ``loss`` = ``residual`` + ``boundary``, before the weights of ``step`` (from 1) were moved."""

    step: int
    loss: float
    residual: float
    boundary: float


class Solver:
    """A network trained on the residual of a PDE.

    A step depends only on the seed, its number and the state, so that a resumed run gives the bits of an unbroken one.

    Args:
        problem: the PDE.
        network: by default ``Network(problem.dimensions)``.
        estimator: by default exact jets.
        precision: widths such as ``w8a8g12``, or ``float32``.
        steps: length of the run; the learning rate reaches zero there.
        seed: of weights, points and rounding, 0 to 2^32 - 1.
        batch: interior points, and boundary points, a step.
        learning_rate: Adam's at the first step.
        threads: for the integer kernels; the results do not depend on it.
        engine: another body than the computer itself, which then decides the precision.

    Raises:
        UsageError: choices that cannot work together; the message says which.
    """

    def __init__(
        self,
        problem: Problem,
        network: Network | None = None,
        estimator: Estimator | None = None,
        precision: str = DEFAULT_PRECISION,
        *,
        steps: int = 2000,
        seed: int = 0,
        batch: int = 100,
        learning_rate: float = DEFAULT_LEARNING_RATE,
        threads: int = 1,
        engine: Engine | None = None,
    ) -> None:
        check(problem)
        _check_numbers(steps, seed, batch, learning_rate, threads)
        self.problem = problem
        self.network = network or Network(problem.dimensions)
        self.estimator = estimator or Estimator()
        self.steps, self.seed, self.batch = steps, seed, batch
        _check_shapes(problem, self.network, self.estimator)
        self.engine = engine or _engine(self.network, self.estimator.mode, precision, seed, threads)
        self.step_number = 0
        self._drawn: dict[int, tuple[Floats, Floats, Floats]] = {}  # raw, by step
        self.master = self._initial()
        self._adam = Adam(self.master.size, learning_rate, steps)

    def _initial(self) -> Floats:
        tensors = self.network.initial(np.random.default_rng([self.seed, _WEIGHTS]))
        return np.concatenate([tensor.ravel() for tensor in tensors])

    @property
    def done(self) -> bool:
        return self.step_number >= self.steps

    def train(self, callback: Callable[[Progress], None] | None = None) -> None:
        """Take the steps that are left; ``callback`` sees each."""
        while not self.done:
            progress = self.step()
            if callback is not None:
                callback(progress)

    def step(self) -> Progress:
        """Take one step.

        Raises:
            PicopinnError: the loss is not finite.
            UsageError: the run is done, or the residual is not finite where u is.
        """
        if self.done:
            raise UsageError(f"the run's {self.steps} steps are taken: a longer run needs a new solver with more steps")
        with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is reported by its loss
            progress, passes = self._loss()
            gradient = self.engine.gradient(passes, self.step_number)
            self._adam.update(self.master, gradient, self.step_number)
        self.step_number += 1
        return progress

    def _loss(self) -> tuple[Progress, list[Pass]]:
        """The loss at this step's points, and what backward needs."""
        self.engine.load(self.master)
        inner, edge, directions = self._draw()
        frame = self.estimator.frame(directions)
        u = frame.derivatives(self.engine.forward(inner, directions))
        residual, partials = linearize(self.problem, inner, u)
        gap = self.engine.forward(edge, None)[:, 0] - self.problem.boundary(edge)
        weight = self.problem.boundary_weight
        progress = self._progress(float(residual @ residual) / self.batch, weight * float(gap @ gap) / self.batch)
        slope = residual * (2 / self.batch)
        bar = Field(partials.value * slope, partials.gradient * slope[:, None], partials.laplacian * slope)
        at_edge = gap[:, None] * (2 * weight / self.batch)
        return progress, [
            Pass(inner, directions, frame.cotangents(bar)),
            Pass(edge, None, at_edge),
        ]

    def _draw(self) -> tuple[Floats, Floats, Floats]:
        """Interior points, boundary points and directions of this step, as the engine holds them."""
        if self.step_number not in self._drawn:  # some at a time: in the midst of kernels each draw would start cold
            ahead = range(self.step_number, min(self.step_number + _AHEAD, self.steps))
            self._drawn = {step: self._draw_of(step) for step in ahead}
        inner, edge, directions = self._drawn[self.step_number]
        return self.engine.snap(inner), self.engine.snap(edge), self.engine.snap_directions(directions)

    def _draw_of(self, step: int) -> tuple[Floats, Floats, Floats]:
        rng = np.random.default_rng([self.seed, _STEPS, step])
        inner, edge = self.problem.interior(rng, self.batch), self.problem.edge(rng, self.batch)
        return inner, edge, self.estimator.draw(rng, self.problem.dimensions)

    def _progress(self, residual: float, boundary: float) -> Progress:
        progress = Progress(self.step_number + 1, residual + boundary, residual, boundary)
        if not math.isfinite(progress.loss):
            raise PicopinnError(f"the loss is {progress.loss} at step {progress.step}: try a smaller learning rate")
        return progress

    def predict(self, x: Floats) -> Floats:
        """u (n,) by the present weights, at the points nearest to x (n, D) that the engine holds."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.problem.dimensions:
            raise UsageError(f"predict takes points of shape (n, {self.problem.dimensions}), got {x.shape}")
        points = self._evaluator.snap(x)
        self._evaluator.load(self.master)
        values = np.empty(len(x))
        for start in range(0, len(x), _PREDICT):
            part = slice(start, start + _PREDICT)
            values[part] = self._evaluator.forward(points[part], None)[:, 0]
        return values

    def evaluate(self) -> float:
        """Relative L2 error at the problem's test points, as the evaluating engine holds them."""
        points = self._evaluator.snap(self.problem.test_points())
        return relative_l2(self.predict(points), self.problem.solution(points))

    @cached_property
    def _evaluator(self) -> Engine:
        return self.engine.evaluator()

    def weights_sha256(self) -> str:
        """SHA-256 of the master as little-endian float64."""
        return hashlib.sha256(self.master.astype("<f8").tobytes()).hexdigest()

    def state(self) -> dict[str, NDArray[Any]]:
        """All that a resumed run needs, as arrays: ``step``, ``master``, ``adam.*``, ``engine.*``."""
        return {
            "step": np.array(self.step_number),
            "master": self.master.copy(),
            **{f"adam.{name}": array for name, array in self._adam.state().items()},
            **{f"engine.{name}": array for name, array in self.engine.state().items()},
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from a ``state`` of a solver with the same options.

        Raises:
            UsageError: the state is incomplete, or of another network or a longer run.
        """
        missing = {"step", "master", "adam.mean", "adam.square"} - state.keys()
        if missing:
            raise UsageError(f"the checkpoint lacks {', '.join(sorted(missing))}: it was not written by this version")
        if state["master"].shape != self.master.shape:
            raise UsageError(
                f"the checkpoint has {state['master'].size} parameters, the network {self.master.size}: "
                "resume with the network of the interrupted run"
            )
        if int(state["step"]) > self.steps:
            raise UsageError(f"the checkpoint is at step {int(state['step'])} of a run of {self.steps}: raise steps")
        self._adam.restore(_part(state, "adam."))
        self.engine.restore(_part(state, "engine."))
        self.master[:] = state["master"]
        self.step_number = int(state["step"])


def _part(state: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _engine(network: Network, mode: Mode, precision: str, seed: int, threads: int) -> Engine:
    """The computer's own engine for a precision."""
    if precision == "float32":
        return FloatEngine(network, mode)
    from .integer import IntegerEngine  # listings need no compiled kernels

    return IntegerEngine(network, Precision.parse(precision), mode, seed=seed, threads=threads)


def _check_numbers(steps: int, seed: int, batch: int, learning_rate: float, threads: int) -> None:
    for name, value in (("steps", steps), ("batch", batch), ("threads", threads)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be 0 to {2**32 - 1}, got {seed}")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise UsageError(f"learning rate must be a positive number, got {learning_rate}")


def _check_shapes(problem: Problem, network: Network, estimator: Estimator) -> None:
    estimator.count(problem.dimensions)  # raises if the directions run out
    if network.inputs != problem.dimensions:
        raise UsageError(
            f"problem {problem.name!r} has {problem.dimensions} dimensions, the network {network.inputs} inputs: "
            f"use Network({problem.dimensions}, ...)"
        )
    if network.outputs != 1:
        raise UsageError(f"a solver's network has one output u, got {network.outputs}")
