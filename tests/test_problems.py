"""Problems: built-in ones solve their equations, a person's own are checked, residuals are differentiated exactly."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn import problems
from picopinn.errors import UsageError
from picopinn.problems import (
    Condition,
    Constraint,
    Field,
    Problem,
    Readings,
    check,
    linearize,
    parts_read,
    relative_l2,
)

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


class Everything(Nonlinear):
    """Reads all that a field may have."""

    time = True
    unknowns: ClassVar = {"speed": 2.0, "unused": 1.0}

    def residual(self, x: Floats, u: Field) -> Any:
        return u.time + u.unknowns["speed"] * u.gradient_squared * u.gradient[:, 0] - np.exp(u.value) * u.laplacian


def test_every_part_is_differentiated() -> None:
    rng, n = np.random.default_rng(2), 4
    u = Field(*(rng.normal(size=shape) for shape in (n, (n, 3), n, n, n)), unknowns={"speed": rng.random(n)})
    residual, partials = linearize(Everything(), rng.random((n, 3)), u)
    speed = u.unknowns["speed"]
    np.testing.assert_allclose(partials.time, 1, rtol=1e-14)
    np.testing.assert_allclose(partials.gradient_squared, speed * u.gradient[:, 0], rtol=1e-13)
    np.testing.assert_allclose(partials.unknowns["speed"], u.gradient_squared * u.gradient[:, 0], rtol=1e-13)
    np.testing.assert_allclose(partials.gradient[:, 0], speed * u.gradient_squared, rtol=1e-13)
    assert not partials.gradient[:, 1:].any()
    np.testing.assert_allclose(residual, Everything().residual(np.zeros((n, 3)), u), rtol=1e-14)


def test_the_parts_a_residual_reads_are_found() -> None:
    assert parts_read(problems.get("poisson2d")()) == {"laplacian"}
    assert parts_read(Everything()) == {"time", "unknowns", "gradient_squared", "gradient", "value", "laplacian"}


def test_a_residual_of_x_alone_has_no_derivatives() -> None:
    class Source(Nonlinear):
        def residual(self, x: Floats, u: Field) -> NDArray[Any]:
            return x[:, 0]

    check(Source())
    assert not parts_read(Source())
    residual, partials = linearize(Source(), np.ones((4, 3)), Field())
    assert (residual == 1).all() and not vars(partials)


class Held(Nonlinear):
    """u = |x|^2 + x_1 N; ``wrong`` names a derivative to get wrong."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    def constraint(self, x: Floats) -> Constraint:
        zero = np.zeros(len(x))
        offset = Field((x**2).sum(axis=1), 2 * x, zero + 6)
        factor = Field(x[:, 0], np.eye(3)[np.zeros(len(x), int)], zero)
        if self.wrong:
            getattr(offset, self.wrong)[:] += 0.1
        return Constraint(offset, factor)


def test_a_hard_constraint_leaves_no_boundary_to_train() -> None:
    check(Held())
    assert Held().conditions() == ()
    assert [one.name for one in Nonlinear().conditions()] == ["boundary"]


@pytest.mark.parametrize("part", ["gradient", "laplacian"])
def test_a_constraint_with_a_wrong_derivative_is_found(part: str) -> None:
    with pytest.raises(UsageError, match=f"offset.{part} of problem 'custom' is not the {part} of its value"):
        check(Held(part))


def test_readings_keep_their_noise_wherever_points_are_held() -> None:
    rng = np.random.default_rng(4)
    x, values = rng.random((7, 2)), rng.normal(size=7)
    drawn, target = Readings("sensors", 1.0, x, values).draw(np.random.default_rng(5), 20)
    rows = np.random.default_rng(5).integers(7, size=20)
    np.testing.assert_array_equal(drawn, x[rows])
    np.testing.assert_array_equal(target(drawn + 1e-3), values[rows])


def test_conditions_give_values_where_points_are_held() -> None:
    condition = Condition("initial", 2.0, lambda rng, n: rng.random((n, 2)), lambda x: x[:, 0])
    drawn, target = condition.draw(np.random.default_rng(6), 3)
    np.testing.assert_array_equal(target(drawn + 1), drawn[:, 0] + 1)


class Tuned(Nonlinear):
    options: ClassVar = {"frequency": 4.0}
    frequency: float


def test_options_are_set_and_listed() -> None:
    assert Tuned().frequency == 4.0
    assert Tuned(frequency=2).chosen_options() == {"frequency": 2.0}


def test_the_end_of_time_is_no_edge() -> None:
    x = Everything().edge(np.random.default_rng(3), 500)
    assert (x[:, 2] < 1).all() and (x[:, 2] == 0).any() and (x[:, 0] == 1).any()


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


def test_a_diverged_field_is_not_blamed_on_the_residual() -> None:
    u = some_field(2, 3)
    u.laplacian[0] = np.nan
    residual, _ = linearize(Nonlinear(), np.ones((2, 3)), u)
    assert np.isnan(residual[0])
