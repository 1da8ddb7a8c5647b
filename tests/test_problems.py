"""Problems: built-in ones solve their equations, a person's own are checked, residuals are differentiated exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn import problems
from picopinn.errors import UsageError
from picopinn.problems import Field, Problem, check, linearize, relative_l2

Floats = NDArray[np.float64]


class Nonlinear(Problem):
    """Uses every part of the field, analytically."""

    dimensions = 3

    def residual(self, x: Floats, u: Field) -> Any:
        return np.exp(u.value) * u.laplacian + (u.gradient**2).sum(axis=1) * np.abs(x[:, 0]) - np.sin(u.gradient[:, 1])

    def boundary(self, x: Floats) -> Floats:
        return np.zeros(len(x))


def some_field(n: int, dimensions: int) -> Field:
    rng = np.random.default_rng(0)
    return Field(rng.normal(size=n), rng.normal(size=(n, dimensions)), rng.normal(size=n))


def test_linearize_matches_derivatives_by_hand() -> None:
    x, u = np.random.default_rng(1).random((6, 3)), some_field(6, 3)
    residual, partials = linearize(Nonlinear(), x, u)
    by_gradient = 2 * u.gradient * x[:, :1]
    by_gradient[:, 1] -= np.cos(u.gradient[:, 1])
    np.testing.assert_allclose(residual, Nonlinear().residual(x, u), rtol=1e-13)
    np.testing.assert_allclose(partials.value, np.exp(u.value) * u.laplacian, rtol=1e-13)
    np.testing.assert_allclose(partials.gradient, by_gradient, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(partials.laplacian, np.exp(u.value), rtol=1e-13)


def test_linearize_leaves_the_field_alone() -> None:
    u = some_field(4, 3)
    before = [part.copy() for part in (u.value, u.gradient, u.laplacian)]
    linearize(Nonlinear(), np.zeros((4, 3)), u)
    for part, old in zip((u.value, u.gradient, u.laplacian), before, strict=True):
        assert (part == old).all()


def test_a_residual_of_x_alone_has_no_derivatives() -> None:
    class Source(Nonlinear):
        def residual(self, x: Floats, u: Field) -> NDArray[Any]:
            return x[:, 0]

    _, partials = linearize(Source(), np.ones((4, 3)), some_field(4, 3))
    assert not partials.value.any() and not partials.gradient.any() and not partials.laplacian.any()


@pytest.mark.parametrize("name", problems.names())
def test_solutions_satisfy_equation_and_boundary(name: str) -> None:
    problem = problems.get(name)()
    rng = np.random.default_rng(2)
    x, edge = problem.interior(rng, 50), problem.edge(rng, 50)
    np.testing.assert_allclose(problem.residual(x, differentiate(problem, x)), 0, atol=1e-5)
    np.testing.assert_allclose(problem.boundary(edge), problem.solution(edge), rtol=1e-12)


def differentiate(problem: Problem, x: Floats, h: float = 1e-3) -> Field:
    """The solution's field by central differences."""
    u = problem.solution(x)
    steps = h * np.eye(problem.dimensions)
    plus = np.stack([problem.solution(x + d) for d in steps], axis=1)
    minus = np.stack([problem.solution(x - d) for d in steps], axis=1)
    return Field(u, (plus - minus) / (2 * h), ((plus - u[:, None]) - (u[:, None] - minus)).sum(axis=1) / h**2)


def test_edge_points_lie_on_every_face() -> None:
    x = Nonlinear().edge(np.random.default_rng(3), 600)
    on_face = [(x[:, axis] == side).mean() for axis in range(3) for side in (0.0, 1.0)]
    assert sum(on_face) == 1
    assert min(on_face) > 0.1  # 1/6 each, within four deviations


def test_poisson_floor_is_the_published_one() -> None:
    """0.275 and 9.85e-2 as integrals over the square; the grid counts its edges in full."""
    floor = problems.get("poisson2d")().trivial_floor()
    assert floor["constant"] == pytest.approx(0.275, rel=0.03)
    assert floor["linear"] == pytest.approx(9.85e-2, rel=0.03)


def test_test_points_are_a_grid_in_two_dimensions_and_fixed_elsewhere() -> None:
    assert problems.get("poisson2d")().test_points().shape == (101 * 101, 2)
    assert Nonlinear().test_points().shape == (2000, 3)
    assert (Nonlinear().test_points() == Nonlinear().test_points()).all()


def test_a_residual_may_be_undefined_for_some_u() -> None:
    class Far(Nonlinear):
        def residual(self, x: Floats, u: Field) -> Any:
            with np.errstate(invalid="ignore"):
                return u.laplacian + np.log(u.value - 10)

    check(Far())


def test_relative_l2() -> None:
    assert relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == pytest.approx(4 / 3)


def test_an_unknown_name_gets_its_neighbour() -> None:
    with pytest.raises(UsageError, match="'poison2d' is unknown: did you mean poisson2d"):
        problems.get("poison2d")


def test_a_wrong_residual_shape_is_named() -> None:
    class Column(Nonlinear):
        def residual(self, x: Floats, u: Field) -> Any:
            return u.value[:, None]

    with pytest.raises(UsageError, match=r"shape \(6, 1\) for 6 points"):
        check(Column())


def test_a_residual_that_breaks_down_is_located() -> None:
    class Singular(Nonlinear):
        def residual(self, x: Floats, u: Field) -> Any:
            with np.errstate(divide="ignore", invalid="ignore"):
                return u.value / x[:, 0]

    x = np.array([[1.0, 2.0, 3.0], [0.0, 0.25, 1.0]])
    with pytest.raises(UsageError, match=r"not finite at x = \[0. +, 0.25, 1. +\]: look there for a division by zero"):
        linearize(Singular(), x, some_field(2, 3))


def test_a_diverged_field_is_not_blamed_on_the_residual() -> None:
    u = some_field(2, 3)
    u.laplacian[0] = np.nan
    residual, _ = linearize(Nonlinear(), np.ones((2, 3)), u)
    assert np.isnan(residual[0])


class NoDimensions(Problem):
    pass


class NoResidual(Nonlinear):
    residual = Problem.residual


class NoData(Nonlinear):
    boundary = Problem.boundary


class Silent(Nonlinear):
    def residual(self, x: Floats, u: Field) -> Any:
        return u.laplacian - np.abs(u.value)


class Real(Nonlinear):
    def residual(self, x: Floats, u: Field) -> Any:
        return np.arctan2(u.value, u.laplacian)


class Transposed(Nonlinear):
    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        return rng.random((self.dimensions, n))


class Wide(Nonlinear):
    def boundary(self, x: Floats) -> Floats:
        return np.zeros((len(x), 1))


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        (Nonlinear, "call the class"),
        (NoDimensions(), "needs dimensions"),
        (NoResidual(), "has no PDE: define residual"),
        (NoData(), "no reference solution: define solution"),
        (Silent(), "is not analytic in u.*replace np.abs"),
        (Real(), "fails on complex numbers.*arctan2"),
        (Transposed(), r"interior .* returns shape \(3, 6\), expected \(6, 3\)"),
        (Wide(), r"boundary .* returns shape \(6, 1\), expected \(6,\)"),
    ],
)
def test_an_incomplete_problem_is_told_what_is_missing(problem: Any, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        check(problem)
