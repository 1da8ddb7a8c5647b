"""Points of the domains that problems share, and hard constraints of theirs."""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
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


def zero_on_square(x: Floats, low: float) -> Constraint:
    """u = (4 / w^2)^2 (x1 - low) (1 - x1) (x2 - low) (1 - x2) N, w = 1 - low, on [low, 1]^2."""
    steepness = 4 / (1 - low) ** 2
    bump, slope, zero = steepness * (x - low) * (1 - x), steepness * (1 + low - 2 * x), np.zeros(len(x))
    factor = Field(bump.prod(axis=1), slope * bump[:, ::-1], -2 * steepness * bump.sum(axis=1))
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

    def constraint(self, x: Floats) -> Constraint:
        """u = offset + t (1 - x^2) N: right at the start and at both ends."""
        place, t = x.T
        bump = 1 - place**2
        factor = Field(t * bump, np.column_stack([-2 * place * t, bump]), -2 * t)
        return Constraint(self.offset(place), factor)

    def offset(self, place: Floats) -> Field:
        """A function of place alone that has the initial and the boundary values."""
        raise UsageError(f"problem {self.name!r} has no offset: define offset(self, place) in its class")


def _widened(x: Floats) -> Floats:
    """The place from [0, 1] to [-1, 1]."""
    return x * [2.0, 1.0] - [1.0, 0.0]
