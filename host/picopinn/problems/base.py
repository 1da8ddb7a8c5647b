"""A PDE as a person writes it: points, residual, boundary values and, for the error, a reference solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

Floats = NDArray[np.float64]

_STEP = 1e-20  # of the complex step: its square is lost against any residual worth training
_TOGETHER = 1 << 15  # numbers of u that are moved at once
_CHECK_STEP = 1e-4  # of the finite step it is compared with
_GRID = 101  # test points a side in two dimensions
_TEST_POINTS, _TEST_SEED = 2000, 20251209


@dataclass(frozen=True, eq=False)
class Field:
    """u and its derivatives at n points: value (n,), gradient (n, D), laplacian (n,)."""

    value: NDArray[Any]
    gradient: NDArray[Any]
    laplacian: NDArray[Any]


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
        boundary_weight: factor of the boundary's mean square in the loss.
        description: one line for listings.
    """

    name: str = "custom"
    dimensions: int
    boundary_weight: float = 1.0
    description: str = ""

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        """n points (n, D) where the residual is trained; here uniform in the unit box."""
        return rng.random((n, self.dimensions))

    def edge(self, rng: np.random.Generator, n: int) -> Floats:
        """n points (n, D) where the boundary values are trained; here uniform on the faces of the unit box."""
        x = rng.random((n, self.dimensions))
        face = rng.integers(2 * self.dimensions, size=n)
        x[np.arange(n), face // 2] = face % 2
        return x

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        """The PDE's left side minus its right side, (n,), each point for itself.

        It is differentiated by complex steps: of ``u`` use analytic NumPy functions only (no abs, no conjugate, no
        comparison); of ``x`` anything.
        """
        raise UsageError(f"problem {self.name!r} has no PDE: define residual(self, x, u) in its class")

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
    """|u - reference| / |reference| in the Euclidean norm."""
    return float(np.linalg.norm(u - reference) / np.linalg.norm(reference))


def linearize(problem: Problem, x: Floats, u: Field) -> tuple[Floats, Field]:
    """Residual (n,) at points x (n, D) and its partial derivatives by u, grad u and lap u, exact to rounding.

    One complex step (Squire and Trapp, SIAM Review 1998) a component, D + 2 of them: the residual is evaluated at
    so many copies of the points, together while they are few.

    Raises:
        UsageError: the residual has the wrong shape, or is not finite where u is.
    """
    count = 2 + x.shape[1]
    partials = np.empty((count, len(x)))
    together = max(1, _TOGETHER // partials.size)
    for first in range(0, count, together):
        some = range(first, min(first + together, count))
        result = _stepped(problem, x, u, some)
        partials[some.start : some.stop] = result.imag / _STEP
    return np.array(result[0].real), Field(partials[0], partials[1:-1].T, partials[-1])


def _stepped(problem: Problem, x: Floats, u: Field, components: range) -> NDArray[Any]:
    """The residual (m, n) after an imaginary step of each of m components of u."""
    moved = np.empty((2 + x.shape[1], len(components), len(x)), complex)
    moved[0], moved[1:-1], moved[-1] = u.value, u.gradient.T[:, None], u.laplacian
    for copy, component in enumerate(components):
        moved[component, copy].imag = _STEP
    flat = moved.reshape(len(moved), -1)
    copies = np.concatenate([x] * len(components))
    result = problem.residual(copies, Field(flat[0], flat[1:-1].T, flat[-1]))
    return _checked(problem, copies, u, result).reshape(-1, len(x))


def _checked(problem: Problem, x: Floats, u: Field, residual: Any) -> NDArray[Any]:
    """The residual if it can be one. A u that diverged is the training's error, not the residual's."""
    result = _shaped(problem, x, residual)
    finite = np.isfinite(result)
    if not finite.all() and all(np.isfinite(part).all() for part in (u.value, u.gradient, u.laplacian)):
        at = np.array2string(x[np.argmin(finite)], precision=4, threshold=6, separator=", ")
        raise UsageError(
            f"the residual of problem {problem.name!r} is not finite at x = {at}: look there for a division by zero, "
            "a logarithm or a power of a negative number"
        )
    return result


def _shaped(problem: Problem, x: Floats, residual: Any) -> NDArray[Any]:
    result: NDArray[Any] = np.asarray(residual)
    if result.shape != (len(x),):
        raise UsageError(
            f"the residual of problem {problem.name!r} has shape {result.shape} for {len(x)} points: "
            f"return one number a point, shape ({len(x)},)"
        )
    return result


def check(problem: Problem) -> None:
    """Try every part of a problem that training uses, on a few points.

    Raises:
        UsageError: which part is missing, has what wrong shape, or cannot be differentiated.
    """
    if not isinstance(problem, Problem):
        raise UsageError(f"a problem is an instance of a Problem subclass, got {problem!r}: call the class, Mine()")
    dimensions = getattr(problem, "dimensions", 0)
    if not isinstance(dimensions, int) or dimensions < 1:
        raise UsageError(f"problem {problem.name!r} needs dimensions, a positive integer: dimensions = 2 in its class")
    rng = np.random.default_rng(0)
    count = dimensions + 3  # unlike D, so that swapped axes show
    inner, edge = problem.interior(rng, count), problem.edge(rng, count)
    for what, value, shape in (
        ("interior", inner, (count, dimensions)),
        ("edge", edge, (count, dimensions)),
        ("boundary", problem.boundary(edge), (count,)),
    ):
        if np.shape(value) != shape:
            raise UsageError(f"{what} of problem {problem.name!r} returns shape {np.shape(value)}, expected {shape}")
    _check_derivatives(problem, inner, rng)


def _check_derivatives(problem: Problem, x: Floats, rng: np.random.Generator) -> None:
    """Compare a complex with a finite step, because np.abs and the like drop the imaginary part without a word."""
    u, d = rng.random((2, len(x), problem.dimensions + 2))

    def along(step: complex) -> NDArray[Any]:
        moved = u + step * d
        return _shaped(problem, x, problem.residual(x, Field(moved[:, 0], moved[:, 1:-1], moved[:, -1])))

    try:
        exact = along(1j * _STEP).imag / _STEP
    except TypeError as error:
        raise UsageError(
            f"the residual of problem {problem.name!r} fails on complex numbers, by which it is differentiated "
            f"({error}): use analytic NumPy functions of u"
        ) from error
    plus, minus = along(_CHECK_STEP), along(-_CHECK_STEP)
    finite = (plus - minus) / (2 * _CHECK_STEP)
    known = np.isfinite(finite)  # these random u may lie outside the residual's domain
    rounding = 1e-14 / _CHECK_STEP * np.abs(plus[known])
    if not (np.abs(exact - finite)[known] <= 1e-3 * np.abs(finite[known]).max(initial=0.0) + rounding).all():
        raise UsageError(
            f"the residual of problem {problem.name!r} is not analytic in u (a complex and a finite step differ): "
            "replace np.abs, np.real, np.conj or casts of u"
        )
