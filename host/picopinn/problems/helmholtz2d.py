"""The 2-D Helmholtz problem of Wang, Teng and Perdikaris (SIAM J. Sci. Comput. 2021)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .domains import zero_on_square
from .field import Constraint, Field, Floats

_WAVES = np.pi * np.array([1.0, 4.0])


class Helmholtz2D(Problem):
    """lap u + u = q on [-1, 1]^2, u = 0 on the boundary by construction; u = sin(pi x1) sin(4 pi x2).

    From "Understanding and Mitigating Gradient Flow Pathologies in Physics-Informed Neural Networks" (arXiv
    2001.04536), where the boundary is soft. The solution is exact.
    """

    name = "helmholtz2d"
    dimensions = 2
    description = "lap u + u = q on [-1, 1]^2, boundary hard"
    defaults: ClassVar = {
        "precision": "w15a15g15",  # 8-bit weights round both the waves' numbers and their sum; they cost a factor 5
        "hidden": 64,
        "tt": (8, 8),
        "rank": 16,  # 8 costs a third more, floats too
        "activation": "sine",
        "omega": 8.0,
        "init": "orthogonal",  # random normals cost a third more, floats too
        "learning_rate": 1e-2,
        "steps": 6000,
    }

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        return 2 * super().interior(rng, n) - 1

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        return 2 * super().edge(rng, n) - 1

    def test_points(self) -> Floats:
        return 2 * super().test_points() - 1

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian + u.value - (1 - _WAVES @ _WAVES) * self.solution(x)
        return residual

    def constraint(self, x: Floats) -> Constraint:
        return zero_on_square(x, -1.0)

    def solution(self, x: Floats) -> Floats:
        values: Floats = np.sin(_WAVES * x).prod(axis=1)
        return values
