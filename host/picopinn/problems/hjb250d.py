"""The 250-D log Hamilton-Jacobi-Bellman problem of He et al. (AISTATS 2023), with a hard terminal condition."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .field import Constraint, Field, Floats

_NODES = 16
_TEST_POINTS, _TEST_SEED = 2000, 250


class HJB250D(Problem):
    """u_t + lap u - |grad u|^2 = 0 on R^250 x [0, 1] with u(x, 1) = log((1 + |x|^2) / 2).

    The error is measured in the unit box. What u is there follows from the end values that the process
    dX = sqrt(2) dW reaches, far outside: training points are drawn along its paths from the box, else the problem has
    many solutions.

    From Wang et al., "Is L2 Physics-Informed Loss Always Suitable" (NeurIPS 2022), and He et al. (AISTATS 2023). The
    terminal condition holds by construction: u = log((1 + |x|^2) / 2) + (1 - t) N. The Cole-Hopf solution is
    u = -log E[2 / (1 + |y|^2)] over y ~ N(x, 2 (1 - t) I). As 1 / q is the integral of exp(-q s) over s > 0, the
    expectation becomes one integral over s, here by Gauss-Laguerre quadrature, to rounding.
    """

    name = "hjb250d"
    dimensions = 251
    time = True
    description = "u_t + lap u - |grad u|^2 = 0 in 250-D, terminal condition hard"
    defaults: ClassVar = {
        "directions": 16,
        "learning_rate": 0.001,
        "steps": 3000,
    }

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        x = super().interior(rng, n)
        since = x[:, -1:] * rng.random((n, 1))  # time that the path took from the box
        x[:, self.space] += np.sqrt(2 * since) * rng.normal(size=(n, self.dimensions - 1))
        return x

    def test_points(self) -> Floats:
        return super().interior(np.random.default_rng(_TEST_SEED), _TEST_POINTS)

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time + u.laplacian - u.gradient_squared
        return residual

    def constraint(self, x: Floats) -> Constraint:
        zero, last = np.zeros(len(x)), np.eye(self.dimensions)[-1]
        place = x * (1 - last)
        square = (place**2).sum(axis=1)
        scale = 2 / (1 + square)
        offset = Field(-np.log(scale), scale[:, None] * place, scale * (self.dimensions - 1) - scale**2 * square)
        return Constraint(offset, Field(1 - x[:, -1], np.zeros(x.shape) - last, zero))

    def solution(self, x: Floats) -> Floats:
        return cole_hopf((x[:, self.space] ** 2).sum(axis=1), 1 - x[:, -1], self.dimensions - 1)


def cole_hopf(square: Floats, left: Floats, dimensions: int, nodes: int = _NODES) -> Floats:
    """u (n,) where |x|^2 is ``square`` (n,) and the time that is left ``left`` (n,)."""
    z, weights = np.polynomial.laguerre.laggauss(nodes)
    mean = (1 + square + 2 * left * dimensions)[:, None]  # of 1 + |y|^2: the integrand is nearly exp(-z)
    spread = 1 + 4 * left[:, None] * z / mean
    exponent = z - z / mean * (1 + square[:, None] / spread) - dimensions / 2 * np.log(spread)
    u: Floats = np.log(mean[:, 0] / 2) - np.log((weights * np.exp(exponent)).sum(axis=1))
    return u
