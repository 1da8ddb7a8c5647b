"""The 2-D Poisson problem of He et al. (AISTATS 2023), with its soft Dirichlet boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .field import Field, Floats


class Poisson2D(Problem):
    """lap u = -sin(x1 + x2) on [0, 1]^2 with u = sin(x1 + x2) / 2 on the boundary, and inside."""

    name = "poisson2d"
    dimensions = 2
    boundary_weight = 300.0
    description = "lap u = -sin(x1 + x2) on the unit square, Dirichlet"

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian + np.sin(x[:, 0] + x[:, 1])
        return residual

    def solution(self, x: Floats) -> Floats:
        return 0.5 * np.sin(x[:, 0] + x[:, 1])
