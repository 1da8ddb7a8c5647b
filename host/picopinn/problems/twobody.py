"""The two-body solution in the unit ball of 100 dimensions, which three problems of Shi et al. (NeurIPS 2024) share."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np

from .base import Problem
from .domains import ball, sphere, zero_on_sphere
from .field import Constraint, Floats

_SEED = 100


class TwoBody(Problem):
    """u = (1 - |x|^2) sum_i c_i sin(x_i + cos x_(i+1) + x_(i+1) cos x_i), zero on the sphere, which u satisfies by
    construction: u = (1 - |x|^2) N. The coefficients c are normal numbers of a fixed seed.

    From Shi et al., "Stochastic Taylor Derivative Estimator" (arXiv 2412.00088), and before them Hu et al. (arXiv
    2307.12306). The solution is exact. The best (1 - |x|^2) (a + b.x), which is nearly the best first-order function
    of a network, is a floor of its own.
    """

    dimensions = 100
    defaults: ClassVar = {
        "hidden": 128,
        "layers": 4,
        "tt": (8, 16),
        "directions": 16,
        "activation": "sine",  # tanh has no curvature where these inputs, small in 100-D, begin
        "omega": 2.0,
        "learning_rate": 0.01,
        "steps": 10000,
    }

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        return ball(rng, n, self.dimensions)

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        return sphere(rng, n, self.dimensions)

    def constraint(self, x: Floats) -> Constraint:
        return zero_on_sphere(x)

    def solution(self, x: Floats) -> Floats:
        return two_body(x)[0]


@lru_cache(maxsize=1)
def _coefficients(count: int) -> Floats:
    return np.random.default_rng(_SEED).normal(size=count)


def two_body(x: Floats) -> tuple[Floats, Floats]:
    """u and its Laplacian, (n,) each, at points (n, D), in O(D) a point."""
    left, right = x[:, :-1], x[:, 1:]
    c = _coefficients(left.shape[1])
    sine, cosine = np.sin(left), np.cos(left)
    phase = left + np.cos(right) + right * cosine
    by_left, by_right = 1 - right * sine, cosine - np.sin(right)
    bent = -right * cosine - np.cos(right)  # sum of the phase's second derivatives
    value, slope = c * np.sin(phase), c * np.cos(phase)
    inner = 1 - (x**2).sum(axis=1)
    laplacian = (slope * bent - value * (by_left**2 + by_right**2)).sum(axis=1)
    along = (slope * (by_left * left + by_right * right)).sum(axis=1)  # x . grad
    total = value.sum(axis=1)
    return inner * total, inner * laplacian - 4 * along - 2 * x.shape[1] * total
