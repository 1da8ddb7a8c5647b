"""Training: points and directions go out, streams come back; cotangents go out, gradients come back; Adam steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, Pass
from .errors import PicopinnError, UsageError
from .estimators import Estimator, Frame
from .floating import FloatEngine
from .network import DEFAULT_PRECISION, Floats, Mode, Network, Precision
from .optim import DEFAULT_LEARNING_RATE, Adam
from .problems import Constraint, Field, Problem, Target, check, linearize, parts_read, relative_l2

_WEIGHTS, _STEPS = 0, 1  # streams of random numbers of one seed
_AHEAD = 16  # steps whose points are drawn together
_PREDICT = 1024  # points a forward; a multiple of 4, so that blocks do not depend on it


@dataclass(frozen=True)
class Progress:
    """What a step found before the weights of ``step`` (from 1) were moved: ``loss`` is the sum of ``residual`` and all
    ``conditions``, these by name, as are the problem's ``unknowns``."""

    step: int
    loss: float
    residual: float
    conditions: Mapping[str, float]
    unknowns: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _AtConditions:
    """Points of all conditions in a step, each one's weight in the loss, and the values that u should have there: of
    each condition its points and their target."""

    points: Floats
    weights: Floats
    targets: Sequence[tuple[slice, Target]]

    def values(self, held: Floats) -> Floats:
        """The targets' values where the points are held."""
        return _joined([target(held[some]) for some, target in self.targets])


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What a step draws, as the problem gave it."""

    inner: Floats
    conditions: _AtConditions | None
    directions: Floats


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
        batch: interior points, and points of each soft condition, a step.
        learning_rate: Adam's at the first step.
        settle: part of the steps after which matrices and cores stand still. Narrow weights move by their whole
            rounding steps to the end; once they rest, the biases of 16 bits finish the solution. None: never.
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
        settle: float | None = None,
        threads: int = 1,
        engine: Engine | None = None,
    ) -> None:
        check(problem)
        _check_numbers(steps, seed, batch, learning_rate, settle, threads)
        self.problem = problem
        self.network = network or Network(problem.dimensions)
        self.estimator = estimator or Estimator()
        self.steps, self.seed, self.batch = steps, seed, batch
        _check_shapes(problem, self.network, self.estimator)
        self.engine = engine or _engine(self.network, self.estimator.mode(problem.time), precision, seed, threads)
        self.step_number = 0
        self._parts, self._conditions = parts_read(problem), problem.conditions()
        self._drawn: dict[int, _Drawn] = {}  # by step
        self._framed: Frame | None = None
        self.master = self._initial()
        self._adam = Adam(self.master.size, learning_rate, steps)
        self._settles = steps if settle is None else settle * steps  # at this step

    def _initial(self) -> Floats:
        """The network's parameters, then the problem's unknowns."""
        tensors = self.network.initial(np.random.default_rng([self.seed, _WEIGHTS]))
        return np.concatenate([*(tensor.ravel() for tensor in tensors), [*self.problem.unknowns.values()]])

    @cached_property
    def _matrices(self) -> NDArray[np.bool_]:
        """Which of the network's parameters are no biases."""
        tensors = self.network.program(Precision(), "jet").tensors
        return np.concatenate([np.full(tensor.size, not tensor.bias) for tensor in tensors])

    @property
    def _weights(self) -> Floats:
        return self.master[: self.network.parameters]

    @property
    def unknowns(self) -> dict[str, float]:
        """Present values of the problem's unknown coefficients."""
        return dict(zip(self.problem.unknowns, self.master[self.network.parameters :].tolist(), strict=True))

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
            progress, passes, by_unknowns = self._loss()
            gradient = self.engine.gradient(passes, self.step_number)
            gradient = np.concatenate([gradient, by_unknowns]) if by_unknowns else gradient
            self._move(gradient)
        self.step_number += 1
        return progress

    def _move(self, gradient: Floats) -> None:
        """One step of Adam, which leaves settled matrices where they are."""
        resting = self._weights[self._matrices] if self.step_number >= self._settles else None
        self._adam.update(self.master, gradient, self.step_number)
        if resting is not None:
            self._weights[self._matrices] = resting

    def _loss(self) -> tuple[Progress, list[Pass], list[float]]:
        """The loss at this step's points, what backward needs, and the gradient by the unknowns.

        All kernels run forward before anything is made of what they answer: each time, they leave the caches cold.
        """
        self.engine.load(self._weights)
        drawn = self._draw()
        x, directions = self.engine.snap(drawn.inner), self.engine.snap_directions(drawn.directions)
        held = None if drawn.conditions is None else self.engine.snap(drawn.conditions.points)
        streams = self.engine.forward(x, directions)
        there = None if held is None else self.engine.forward(held, None)
        residual, inside, by_unknowns = self._inside(x, directions, streams)
        if drawn.conditions is None or held is None or there is None:
            return self._progress(residual, {}), [inside], by_unknowns
        conditions, at_points = self._at_conditions(drawn.conditions, held, there)
        return self._progress(residual, conditions), [inside, at_points], by_unknowns

    def _inside(self, x: Floats, directions: Floats, streams: Floats) -> tuple[float, Pass, list[float]]:
        """The residual's mean square at interior points, its cotangents there, and its gradient by the unknowns."""
        frame, constraint = self._frame(directions), self.problem.constraint(x)
        u = frame.derivatives(streams, self._parts, constraint)
        if self.problem.unknowns:
            u.unknowns = {name: np.full(len(x), value) for name, value in self.unknowns.items()}
        residual, partials = linearize(self.problem, x, u)
        bar = partials.scaled(residual * (2 / len(x)))
        inside = Pass(x, directions, frame.cotangents(bar, streams, constraint))
        return float(residual @ residual) / len(x), inside, self._by_unknowns(bar)

    def _frame(self, directions: Floats) -> Frame:
        """What directions make of streams; kept, since jets along all axes have the same ones each step."""
        framed = self._framed
        if framed is None or not (framed.directions is directions or np.array_equal(framed.directions, directions)):
            framed = self._framed = self.estimator.frame(directions, self.problem.time)
        return framed

    def _by_unknowns(self, bar: Field) -> list[float]:
        """The loss's gradient by each unknown, from its cotangents at all points."""
        found = vars(bar).get("unknowns", {})
        return [float(found[name].sum()) if name in found else 0.0 for name in self.problem.unknowns]

    def _at_conditions(self, drawn: _AtConditions, held: Floats, streams: Floats) -> tuple[dict[str, float], Pass]:
        """The weighted mean square of each condition, and the cotangents of all."""
        constraint = self.problem.constraint(held)
        gap = _values(streams, constraint) - drawn.values(held)
        slope = 2 * drawn.weights * gap
        if constraint is not None:
            slope = slope * constraint.factor.value
        found: dict[str, float] = {}
        for one, (at, _) in zip(self._conditions, drawn.targets, strict=True):  # names may be shared
            found[one.name] = found.get(one.name, 0.0) + float(drawn.weights[at] @ gap[at] ** 2)
        return found, Pass(held, None, slope[:, None])

    def _draw(self) -> _Drawn:
        """Interior points, points of conditions and directions of this step."""
        if self.step_number not in self._drawn:  # some at a time: in the midst of kernels each draw would start cold
            ahead = range(self.step_number, min(self.step_number + _AHEAD, self.steps))
            self._drawn = {step: self._draw_of(step) for step in ahead}
        return self._drawn[self.step_number]

    def _draw_of(self, step: int) -> _Drawn:
        rng = np.random.default_rng(np.array([self.seed, _STEPS, step], np.uint32))  # a list would take twice as long
        inner, conditions = self.problem.interior(rng, self.batch), self._draw_conditions(rng)
        return _Drawn(inner, conditions, self.estimator.draw(rng, self.problem.dimensions, self.problem.time))

    def _draw_conditions(self, rng: np.random.Generator) -> _AtConditions | None:
        if not self._conditions:
            return None
        points, targets = zip(*(one.draw(rng, self.batch) for one in self._conditions), strict=True)
        sizes = [len(some) for some in points]
        weights = [np.full(size, one.weight / size) for size, one in zip(sizes, self._conditions, strict=True)]
        parts = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        return _AtConditions(_joined(points), _joined(weights), list(zip(parts, targets, strict=True)))

    def _progress(self, residual: float, conditions: Mapping[str, float]) -> Progress:
        loss = residual + sum(conditions.values())
        progress = Progress(self.step_number + 1, loss, residual, conditions, self.unknowns)
        if not math.isfinite(progress.loss):
            raise PicopinnError(f"the loss is {progress.loss} at step {progress.step}: try a smaller learning rate")
        return progress

    def predict(self, x: Floats) -> Floats:
        """u (n,) by the present weights, at the points nearest to x (n, D) that the engine holds."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.problem.dimensions:
            raise UsageError(f"predict takes points of shape (n, {self.problem.dimensions}), got {x.shape}")
        points = self._evaluator.snap(x)
        self._evaluator.load(self._weights)
        values = np.empty(len(x))
        for start in range(0, len(x), _PREDICT):
            part = slice(start, start + _PREDICT)
            values[part] = _values(self._evaluator.forward(points[part], None), self.problem.constraint(points[part]))
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
            names = ", ".join(sorted(missing))
            raise UsageError(f"the checkpoint lacks {names}: it was not written by this version, start a new run")
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


def _values(streams: Floats, constraint: Constraint | None) -> Floats:
    """u (n,) from the network's streams."""
    value: Floats = streams[:, 0]
    return value if constraint is None else constraint.offset.value + constraint.factor.value * value


def _joined(arrays: Sequence[Floats]) -> Floats:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _part(state: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _engine(network: Network, mode: Mode, precision: str, seed: int, threads: int) -> Engine:
    """The computer's own engine for a precision."""
    if precision == "float32":
        return FloatEngine(network, mode)
    from .integer import IntegerEngine  # listings need no compiled kernels

    return IntegerEngine(network, Precision.parse(precision), mode, seed=seed, threads=threads)


def _check_numbers(steps: int, seed: int, batch: int, learning_rate: float, settle: float | None, threads: int) -> None:
    for name, value in (("steps", steps), ("batch", batch), ("threads", threads)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be 0 to {2**32 - 1}, got {seed}")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise UsageError(f"learning rate must be a positive number, got {learning_rate}")
    if settle is not None and not 0 < settle <= 1:
        raise UsageError(f"settle is a part of the steps, above 0 and at most 1, got {settle}: try 0.8")


def _check_shapes(problem: Problem, network: Network, estimator: Estimator) -> None:
    estimator.count(problem.dimensions, problem.time)  # raises if the directions run out
    if network.inputs != problem.dimensions:
        raise UsageError(
            f"problem {problem.name!r} has {problem.dimensions} dimensions, the network {network.inputs} inputs: "
            f"use Network({problem.dimensions}, ...)"
        )
    if network.outputs != 1:
        raise UsageError(f"a solver's network has one output u, got {network.outputs}")
