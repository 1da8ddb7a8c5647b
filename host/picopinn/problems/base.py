"""A PDE as a person writes it: points, residual, boundary values and, for the error, a reference solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .field import Condition, Constraint, Field, Floats, Readings

_GRID = 101  # test points a side in two dimensions
_TEST_POINTS, _TEST_SEED = 2000, 20251209


class Problem:
    """A PDE with Dirichlet data, here on the unit box [0, 1]^D. Subclass it; every method below may be replaced.
    Points are drawn some steps ahead, each time as a new array, from ``rng`` alone::

        class Helmholtz(Problem):
            dimensions = 2

            def residual(self, x, u):
                return u.laplacian + 10 * u.value - (10 - 2 * np.pi**2) * self.solution(x)

            def solution(self, x):
                return np.sin(np.pi * x[:, 0]) * np.sin(np.pi * x[:, 1])

    Attributes:
        name: how the command line calls it.
        dimensions: columns D of a point, time included.
        time: the last column is time, and the Laplacian is over the others.
        boundary_weight: factor of the boundary's mean square in the loss.
        description: one line for listings.
        options: numbers that an instance may choose, and their defaults; ``Mine(frequency=2)`` sets ``frequency``.
        defaults: settings in which its runs differ from others (:class:`picopinn.settings.Settings`).
        unknowns: coefficients that are trained beside the network, and where they start.
        true_unknowns: what they should become, where that is known.
    """

    name: str = "custom"
    dimensions: int
    time: bool = False
    boundary_weight: float = 1.0
    description: str = ""
    options: ClassVar[Mapping[str, float]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    unknowns: ClassVar[Mapping[str, float]] = {}
    true_unknowns: ClassVar[Mapping[str, float]] = {}

    def __init__(self, **options: float) -> None:
        for name in options:
            if name not in self.options:
                known = f"its options are {', '.join(self.options)}" if self.options else "it has none"
                raise UsageError(f"problem {self.name!r} has no option {name!r}: {known}")
        for name, value in {**self.options, **options}.items():
            setattr(self, name, value)

    def chosen_options(self) -> dict[str, float]:
        """The options of this instance."""
        return {name: float(getattr(self, name)) for name in self.options}

    @property
    def space(self) -> slice:
        """The columns of space."""
        return slice(self.dimensions - self.time)

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        """n points (n, D) where the residual is trained; here uniform in the unit box."""
        return rng.random((n, self.dimensions))

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        """n points (n, D) where the boundary values are trained; here uniform on the faces of the unit box, but for the
        end of time."""
        x = rng.random((n, self.dimensions))
        faces = rng.integers(2 * self.dimensions - self.time, size=n)
        x[np.arange(n), faces >> 1] = faces & 1
        return x

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        """The PDE's left side minus its right side, (n,), each point for itself.

        It is differentiated by complex steps: of ``u`` use analytic NumPy functions only (no abs, no conjugate, no
        comparison); of ``x`` anything.
        """
        raise UsageError(f"problem {self.name!r} has no PDE: define residual(self, x, u) in its class")

    def conditions(self) -> Sequence[Condition | Readings]:
        """Penalties in the loss beside the residual, asked for once a run; here the boundary, or none if there is a
        hard constraint."""
        if self.constraint(self.interior(np.random.default_rng(0), 1)) is not None:
            return ()
        return (Condition("boundary", self.boundary_weight, self.edge, self.boundary),)

    def constraint(self, x: Floats) -> Constraint | None:
        """What u satisfies by construction at points x; here nothing."""
        return None

    def boundary(self, x: Floats) -> Floats:
        """Dirichlet values (n,) at edge points; here those of the solution."""
        return self.solution(x)

    def solution(self, x: Floats) -> Floats:
        """Reference solution (n,), for the error."""
        raise UsageError(f"problem {self.name!r} has no reference solution: define solution(self, x) in its class")

    def test_points(self) -> Floats:
        """Where the error is measured, (m, D): a 101 x 101 grid in two dimensions, else 2000 fixed interior points."""
        if self.dimensions == 2:
            side = np.linspace(0.0, 1.0, _GRID)
            return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
        return self.interior(np.random.default_rng(_TEST_SEED), _TEST_POINTS)

    def trivial_floor(self) -> dict[str, float]:
        """Relative L2 errors of the best ``constant`` and the best ``linear`` function: what a solver must beat."""
        x = self.test_points()
        u = self.solution(x)
        linear = np.column_stack([np.ones(len(x)), x])
        fit, *_ = np.linalg.lstsq(linear, u, rcond=None)
        return {"constant": relative_l2(np.full_like(u, u.mean()), u), "linear": relative_l2(linear @ fit, u)}


def relative_l2(u: Floats, reference: Floats) -> float:
    """``|u - reference| / |reference|`` in the Euclidean norm."""
    return float(np.linalg.norm(u - reference) / np.linalg.norm(reference))
