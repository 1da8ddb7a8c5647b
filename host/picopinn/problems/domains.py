"""Points of the domains that problems share, and the hard constraint of a ball."""

from __future__ import annotations

import numpy as np

from .base import Problem
from .field import Constraint, Field, Floats


def ball(rng: np.random.Generator, n: int, dimensions: int) -> Floats:
    """n points (n, dimensions) uniform in the unit ball."""
    radius = rng.random((n, 1)) ** (1 / dimensions)
    inside: Floats = radius * sphere(rng, n, dimensions)
    return inside


def sphere(rng: np.random.Generator, n: int, dimensions: int) -> Floats:
    """n points (n, dimensions) uniform on the unit sphere."""
    x = rng.normal(size=(n, dimensions))
    unit: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def zero_on_sphere(x: Floats) -> Constraint:
    """u = (1 - |x|^2) N."""
    zero = np.zeros(len(x))
    factor = Field(1 - (x**2).sum(axis=1), -2 * x, np.full(len(x), -2.0 * x.shape[1]))
    return Constraint(Field(zero, np.zeros(x.shape), zero), factor)


class Strip(Problem):
    """Problems on [-1, 1] x [0, 1]: a place, then time."""

    dimensions = 2
    time = True

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        return _widened(super().interior(rng, n))

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        return _widened(super().edge(rng, n))

    def test_points(self) -> Floats:
        return _widened(super().test_points())


def _widened(x: Floats) -> Floats:
    """The place from [0, 1] to [-1, 1]."""
    return x * [2.0, 1.0] - [1.0, 0.0]
