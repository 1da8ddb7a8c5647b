"""Problems with hard constraints, for the tests of exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picopinn import Estimator, Network, Problem, Solver
from picopinn.network import Floats
from picopinn.problems import Constraint, Field

_STEP, _TINY = 1e-5, 1e-20


class Wave(Problem):
    """u = sqrt(2) cos(pi x) exp(-t) + t (1 - x^2)^3 N, with functions."""

    name = "wave"
    dimensions = 2
    time = True

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time - u.laplacian
        return residual

    def constraint(self, x: Floats) -> Constraint:
        return Constraint(
            _field(self, x, lambda x: np.sqrt(2 + 0 * x[:, 1]) * np.cos(np.pi * x[:, 0]) * np.exp(-x[:, 1])),
            _field(self, x, lambda x: x[:, 1] * (1 - x[:, 0] ** 2) ** 3),
        )

    def solution(self, x: Floats) -> Floats:
        return 1 + x[:, 0] + x[:, 1]


class Ball(Problem):
    """u = 1 - |x|^2 + 3 x6 + (1 - |x|^2) / 2 N, without: sums of many like terms."""

    name = "ball"
    dimensions = 6

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        return u.laplacian

    def constraint(self, x: Floats) -> Constraint:
        return Constraint(
            _field(self, x, lambda x: 1 - (x**2).sum(axis=1) + 3 * x[:, -1]),
            _field(self, x, lambda x: (1 - (x**2).sum(axis=1)) / 2),
        )

    def solution(self, x: Floats) -> Floats:
        return x.sum(axis=1)


class Tangent(Ball):
    """What no formula says."""

    name = "tangent"

    def constraint(self, x: Floats) -> Constraint:
        return Constraint(_field(self, x, lambda x: np.tan(x[:, 0])), _field(self, x, lambda x: x[:, 1]))


def _field(problem: Problem, x: NDArray[Any], value: Callable[[Any], Any]) -> Field:
    """A function and its derivatives, of numbers by steps; nobody asks for those of formulas."""
    if x.dtype == object:
        return Field(value(x), x, x[:, 0])
    unit = np.eye(x.shape[1])

    def slope(x: Floats, k: int) -> Floats:
        found: Floats = value(x + 1j * _TINY * unit[k]).imag / _TINY
        return found

    bend = [(slope(x + _STEP * e, k) - slope(x - _STEP * e, k)) / (2 * _STEP) for k, e in enumerate(unit)]
    return Field(value(x), np.stack([slope(x, k) for k in range(len(unit))], axis=1), sum(bend[problem.space]))


def solver(problem: Problem) -> Solver:
    """Of a small network, as it begins."""
    directions = min(4, problem.dimensions - problem.time)
    network = Network(problem.dimensions, hidden=16, layers=2, tt=(4, 4), rank=3)
    return Solver(problem, network, Estimator("jet", directions=directions), batch=8, learning_rate=1e-2, seed=3)
