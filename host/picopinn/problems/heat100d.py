"""The 100-D heat problem of He et al. (AISTATS 2023), with soft conditions as published and with a hard initial one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .domains import ball, sphere
from .field import Condition, Constraint, Field, Floats, Readings


class Heat100D(Problem):
    """u_t = lap u on the unit ball of 100 dimensions for 0 <= t <= 1, u = |x|^2 / 200 at first, 1 / 200 + t on the
    sphere.

    From He et al., "Learning Physics-Informed Neural Networks without Stacked Back-propagation" (AISTATS 2023), as are
    weights, points and network. The solution |x|^2 / 200 + t is exact. Nearly all of a ball in 100 dimensions lies by
    its sphere, so that t + 0.0049 alone has an error of 1.65e-4.
    """

    name = "heat100d"
    dimensions = 101
    time = True
    description = "u_t = lap u in the 100-D unit ball, conditions soft"
    boundary_weight = 1000.0
    defaults: ClassVar = {
        "batch": 50,
        "steps": 1000,
        "directions": 16,
        "rank": 12,
        "learning_rate": 6e-3,
    }

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        return _at_times(rng, ball(rng, n, 100))

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        return _at_times(rng, sphere(rng, n, 100))

    def conditions(self) -> Sequence[Condition | Readings]:
        return (*super().conditions(), Condition("initial", self.boundary_weight, _start, self.solution))

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time - u.laplacian
        return residual

    def solution(self, x: Floats) -> Floats:
        values: Floats = (x[:, self.space] ** 2).sum(axis=1) / 200 + x[:, -1]
        return values


class Heat100DHard(Heat100D):
    """The same with u = |x|^2 / 200 + t |x|^2 + t (1 - |x|^2) N, which is right at first and on the sphere.

    The network has to learn the constant 1, as that of ``hjb20d``; one that answers 0 has an error of 2.7e-2. So this
    shows what a formulation gains, not what the arithmetic can do.
    """

    name = "heat100d-hard"
    description = "u_t = lap u in the 100-D unit ball, conditions hard"

    def conditions(self) -> Sequence[Condition | Readings]:
        return ()

    def constraint(self, x: Floats) -> Constraint:
        last, t = np.eye(self.dimensions)[-1], x[:, -1]
        place = x * (1 - last)
        square = (place**2).sum(axis=1)
        weight = 1 / 200 + t  # of |x|^2
        offset = Field(square * weight, 2 * weight[:, None] * place + square[:, None] * last, 200 * weight)
        inner = 1 - square
        factor = Field(t * inner, -2 * t[:, None] * place + inner[:, None] * last, -200 * t)
        return Constraint(offset, factor)


def _at_times(rng: np.random.Generator, x: Floats) -> Floats:
    return np.column_stack([x, rng.random(len(x))])


def _start(rng: np.random.Generator, n: int) -> Floats:
    return np.column_stack([ball(rng, n, 100), np.zeros(n)])
