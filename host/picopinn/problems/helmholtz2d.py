"""The 2-D Helmholtz problem of Wang, Teng and Perdikaris (SIAM J. Sci. Comput. 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .field import Field, Floats

_WAVES = np.pi * np.array([1.0, 4.0])


class Helmholtz2D(Problem):
    """lap u + u = q on [-1, 1]^2 with u = 0 on the boundary, u = sin(pi x1) sin(4 pi x2).

    From "Understanding and Mitigating Gradient Flow Pathologies in Physics-Informed Neural Networks" (arXiv
    2001.04536). The solution is exact.
    """

    name = "helmholtz2d"
    dimensions = 2
    boundary_weight = 100.0
    description = "lap u + u = q on [-1, 1]^2, Dirichlet"

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        return 2 * super().interior(rng, n) - 1

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        return 2 * super().edge(rng, n) - 1

    def test_points(self) -> Floats:
        return 2 * super().test_points() - 1

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian + u.value - (1 - _WAVES @ _WAVES) * self.solution(x)
        return residual

    def boundary(self, x: Floats) -> Floats:
        return np.zeros(len(x))

    def solution(self, x: Floats) -> Floats:
        values: Floats = np.sin(_WAVES * x).prod(axis=1)
        return values
