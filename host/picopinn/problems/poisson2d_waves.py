"""A 2-D Poisson problem whose solution has as many waves as one asks for."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .field import Field, Floats


class Poisson2DWaves(Problem):
    """lap u = -2 (pi f)^2 u* on [0, 1]^2 with u = u* on the boundary, u* = sin(pi f x1) sin(pi f x2).

    The solution u* is exact. The residual is divided by 2 (pi f)^2, so that one boundary weight serves every frequency;
    networks learn low frequencies first (Rahaman et al., ICML 2019), so the problem becomes hard as f grows.
    """

    name = "poisson2d-waves"
    dimensions = 2
    description = "lap u = f with `frequency` half waves a side of the unit square, Dirichlet"
    options: ClassVar = {"frequency": 4.0}
    frequency: float

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian / (2 * (np.pi * self.frequency) ** 2) + self.solution(x)
        return residual

    def solution(self, x: Floats) -> Floats:
        values: Floats = np.sin(np.pi * self.frequency * x).prod(axis=1)
        return values
