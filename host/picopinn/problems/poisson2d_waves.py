"""A 2-D Poisson problem whose solution has as many waves as one asks for."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .base import Problem
from .domains import zero_on_square
from .field import Constraint, Field, Floats


class Poisson2DWaves(Problem):
    """lap u = -2 (pi f)^2 u* on [0, 1]^2, u = 0 on the boundary by construction; u = u* = sin(pi f x1) sin(pi f x2).

    The solution u* is exact. Networks learn low frequencies first (Rahaman et al., ICML 2019), so the problem becomes
    hard as f grows; the first layer's ``omega`` should be about 3 f. The residual is divided by 2 (pi f)^2.

    Raises:
        UsageError: f is no positive whole number.
    """

    name = "poisson2d-waves"
    dimensions = 2
    description = "lap u = f with `frequency` half waves a side of the unit square, boundary hard"
    options: ClassVar = {"frequency": 2.0}
    defaults: ClassVar = {
        "precision": "w14a14g14",  # with 8-bit activations errors of low frequency hide in the residual's noise
        "hidden": 64,
        "layers": 2,
        "tt": (8, 8),
        "rank": 16,
        "activation": "sine",
        "omega": 6.0,
        "init": "orthogonal",
        "learning_rate": 1e-2,
        "steps": 4000,
        "settle": 0.8,
    }
    frequency: float

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        if not (self.frequency >= 1 and float(self.frequency).is_integer()):
            raise UsageError(f"frequency must be a positive whole number, got {self.frequency}")

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian / (2 * (np.pi * self.frequency) ** 2) + self.solution(x)
        return residual

    def constraint(self, x: Floats) -> Constraint:
        return zero_on_square(x, 0.0)

    def solution(self, x: Floats) -> Floats:
        values: Floats = np.sin(np.pi * self.frequency * x).prod(axis=1)
        return values
