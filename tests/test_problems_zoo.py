"""The problems that come with picopinn: solutions solve, references converge, constraints and points are right.

Derivatives here are central differences of eighth order, which know nothing of the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn import problems
from picopinn.errors import UsageError
from picopinn.network import DEFAULT_PRECISION
from picopinn.problems import Condition, Field, Problem, Readings, allencahn1d, burgers1d, hjb250d, relative_l2
from picopinn.problems.domains import ball, sphere
from picopinn.problems.twobody import TwoBody, two_body
from picopinn.settings import FLOAT, Settings

Floats = NDArray[np.float64]

_FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
_SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])
_SMALL = {"burgers1d": 5e-4}  # steps where the solution is steep
_NODES = {"allencahn1d": (2 / 1024, 1 / 128)}  # steps from node to node of a table

NAMES = problems.names()
HARD = [name for name in NAMES if not problems.get(name)().conditions()]


def derivatives(u: Callable[[Floats], Floats], x: Floats, steps: Floats, space: slice) -> Field:
    """Value, gradient and Laplacian of u at points (n, D), with a step for each axis."""
    gradient, second = np.empty(x.shape), np.empty(x.shape)
    for axis in range(x.shape[1]):
        step = steps[axis] * np.eye(x.shape[1])[axis]
        values = np.stack([u(x + k * step) for k in range(-4, 5)])
        gradient[:, axis] = _FIRST @ values / steps[axis]
        second[:, axis] = _SECOND @ values / steps[axis] ** 2
    return Field(u(x), gradient, second[:, space].sum(axis=1))


def solved(problem: Problem, x: Floats) -> Field:
    """All parts of the solution's field."""
    steps = np.full(problem.dimensions, _SMALL.get(problem.name, 1e-2))
    steps[:] = _NODES.get(problem.name, steps)
    u = derivatives(problem.solution, x, steps, problem.space)
    u.gradient_squared = (u.gradient[:, problem.space] ** 2).sum(axis=1)
    u.time = u.gradient[:, -1]
    u.unknowns = {name: np.full(len(x), value) for name, value in problem.true_unknowns.items()}
    return u


def inside(problem: Problem, n: int) -> Floats:
    """Interior points that finite steps do not leave, on the nodes of a table if there is one."""
    x = problem.interior(np.random.default_rng(2), n)
    if problem.time:
        x[:, -1] = 0.05 + 0.9 * x[:, -1]
    if problem.name in _NODES:
        x = np.round(0.98 * x / _NODES[problem.name]) * _NODES[problem.name]
    return x


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_solves_the_equation(name: str) -> None:
    problem = problems.get(name)()
    x = inside(problem, 40)
    u = solved(problem, x)
    scale = np.abs(u.laplacian).max() if name not in ("hjb20d", "heat1d-inverse") else 1.0
    np.testing.assert_allclose(problem.residual(x, u), 0, atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize("frequency", [1.0, 7.0])
def test_waves_of_every_frequency_solve_theirs(frequency: float) -> None:
    problem = problems.get("poisson2d-waves")(frequency=frequency)
    x = inside(problem, 40)
    np.testing.assert_allclose(problem.residual(x, solved(problem, x)), 0, atol=1e-6)


@pytest.mark.parametrize("frequency", [0.0, -2.0, 2.5, np.nan])
def test_a_frequency_that_the_boundary_forbids_is_refused(frequency: float) -> None:
    with pytest.raises(UsageError, match="frequency must be a positive whole number"):
        problems.get("poisson2d-waves")(frequency=frequency)


@pytest.mark.parametrize("name", NAMES)
def test_soft_conditions_agree_with_the_solution(name: str) -> None:
    problem = problems.get(name)()
    for condition in problem.conditions():
        x, values = condition.draw(np.random.default_rng(3), 200)
        if isinstance(condition, Condition):
            np.testing.assert_allclose(values(x), problem.solution(x), atol=1e-12)


@pytest.mark.parametrize("name", HARD)
def test_hard_conditions_hold_and_state_their_derivatives(name: str) -> None:
    problem = problems.get(name)()
    for x in held(problem):
        constraint = problem.constraint(x)
        assert constraint is not None
        np.testing.assert_allclose(constraint.factor.value, 0, atol=1e-14)
        np.testing.assert_allclose(constraint.offset.value, problem.solution(x), atol=2e-6)
    x = inside(problem, 10)
    steps = np.full(problem.dimensions, 1e-2)
    for part in ("offset", "factor"):
        stated: Field = getattr(problem.constraint(x), part)
        found = derivatives(lambda y: getattr(problem.constraint(y), part).value, x, steps, problem.space)  # noqa: B023
        np.testing.assert_allclose(stated.gradient, found.gradient, atol=1e-9)
        np.testing.assert_allclose(stated.laplacian, found.laplacian, rtol=1e-8, atol=1e-8)


def held(problem: Problem) -> list[Floats]:
    """Points where a constraint leaves no freedom."""
    rng = np.random.default_rng(4)
    if isinstance(problem, TwoBody):
        return [sphere(rng, 50, problem.dimensions)]
    x = problem.interior(rng, 50)
    if problem.name == "heat100d-hard":
        return [problem.edge(rng, 50), x * (np.arange(problem.dimensions) < 100)]
    if problem.name in ("helmholtz2d", "poisson2d-waves"):
        return [problem.edge(rng, 50)]
    at_once, at_ends = x.copy(), x.copy()
    at_once[:, -1] = 1.0 if problem.name.startswith("hjb") else 0.0  # the end, or the start
    at_ends[:, 0] = np.where(rng.random(50) < 0.5, -1.0, 1.0)
    return [at_once, at_ends] if problem.name in ("allencahn1d", "burgers1d") else [at_once]


@pytest.mark.parametrize("name", NAMES)
def test_points_lie_in_the_domain_and_follow_from_the_seed(name: str) -> None:
    problem = problems.get(name)()
    draws = [problem.interior, *(one.points for one in problem.conditions() if isinstance(one, Condition))]
    for draw in draws:
        x = draw(np.random.default_rng(5), 300)
        assert x.shape == (300, problem.dimensions)
        assert in_domain(problem, x).all()
        np.testing.assert_array_equal(x, draw(np.random.default_rng(5), 300))
    assert in_domain(problem, problem.test_points()).all()


def in_domain(problem: Problem, x: Floats) -> NDArray[np.bool_]:
    place, time = x[:, problem.space], x[:, -1:]
    if isinstance(problem, TwoBody) or problem.name.startswith("heat100d"):
        near = (place**2).sum(axis=1) <= 1 + 1e-12
    elif problem.name == "hjb250d" and len(x) != len(problem.test_points()):
        near = np.isfinite(place).all(axis=1)  # all of space; the error is measured in the box
    else:
        lowest = -1 if problem.name in ("allencahn1d", "burgers1d", "helmholtz2d") else 0
        near = ((place >= lowest) & (place <= 1)).all(axis=1)
    return near & ((time >= 0) & (time <= 1)).all(axis=1) if problem.time else near


def test_log_hjb_points_follow_the_process_from_the_box() -> None:
    """E|x|^2 is 250 / 3 at the start of a path and grows by 500 a unit of time, of which half of t has passed."""
    x = problems.get("hjb250d")().interior(np.random.default_rng(6), 4000)
    early, late = (x[(x[:, -1] < 0.5) == side] for side in (True, False))
    for part in (early, late):
        square = (part[:, :-1] ** 2).sum(axis=1)
        assert square.mean() == pytest.approx(250 / 3 + 250 * part[:, -1].mean(), rel=0.05)


def test_burgers_points_crowd_where_the_shock_is() -> None:
    x = problems.get("burgers1d")().interior(np.random.default_rng(6), 4000)
    assert (np.abs(x[:, 0]) < 0.01).mean() == pytest.approx(0.1, abs=4 * 0.005)
    assert (x[:, 0] < 0).mean() == pytest.approx(0.5, abs=4 * 0.008)


def test_a_ball_is_filled_evenly() -> None:
    x = ball(np.random.default_rng(6), 4000, 3)
    volume = np.linalg.norm(x, axis=1) ** 3  # uniform if the points are
    assert abs(volume.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / 4000)
    assert np.abs(x.mean(axis=0)).max() < 4 * np.sqrt(1 / 5 / 4000)


def test_soft_conditions_of_heat_are_on_the_sphere_and_at_the_start() -> None:
    boundary, initial = problems.get("heat100d")().conditions()
    assert isinstance(boundary, Condition) and isinstance(initial, Condition)
    x, start = (one.points(np.random.default_rng(7), 20) for one in (boundary, initial))
    np.testing.assert_allclose((x[:, :-1] ** 2).sum(axis=1), 1)
    assert len(set(x[:, -1])) == 20 and not start[:, -1].any()


def test_allen_cahn_reference_converges() -> None:
    table = allencahn1d.reference()
    slices, cells = (count - 1 for count in table.shape)
    np.testing.assert_allclose(allencahn1d.reference(cells // 2, slices)[:, :], table[:, ::2], atol=1e-6)
    np.testing.assert_allclose(allencahn1d.reference(cells, slices // 2), table[::2], atol=1e-8)


def test_interpolation_is_exact_for_polynomials_and_fine_for_the_table() -> None:
    rng = np.random.default_rng(8)
    x = rng.random((200, 2))
    t, place = np.linspace(0, 1, 9)[:, None], np.linspace(0, 1, 11)
    np.testing.assert_allclose(
        allencahn1d.interpolate(t**5 - t * place**4, x), x[:, 1] ** 5 - x[:, 1] * x[:, 0] ** 4, atol=1e-13
    )
    table = allencahn1d.reference()
    np.testing.assert_allclose(
        allencahn1d.interpolate(table[::2, ::2], x), allencahn1d.interpolate(table, x), atol=2e-5
    )


@pytest.mark.parametrize("viscosity", [0.01 / np.pi, 0.1])
def test_burgers_reference_converges(viscosity: float) -> None:
    x = problems.get("burgers1d")().test_points()
    np.testing.assert_allclose(burgers1d.cole_hopf(x, viscosity), burgers1d.cole_hopf(x, viscosity, 256), atol=1e-13)


def test_log_hjb_reference_converges_and_agrees_with_monte_carlo() -> None:
    rng = np.random.default_rng(9)
    x, left = rng.random((6, 250)), np.linspace(0, 1, 6)
    square = (x**2).sum(axis=1)
    u = hjb250d.cole_hopf(square, left, 250)
    np.testing.assert_allclose(u, hjb250d.cole_hopf(square, left, 250, 64), rtol=1e-12)
    np.testing.assert_allclose(u[0], np.log((1 + square[0]) / 2), rtol=1e-13)
    for place, rest, value in zip(x[1:], left[1:], u[1:], strict=True):
        ends = place + np.sqrt(2 * rest) * rng.normal(size=(20000, 250))
        sample = 2 / (1 + (ends**2).sum(axis=1))
        error = sample.std() / sample.mean() / np.sqrt(len(sample))  # of the logarithm
        assert error < 1e-3
        assert abs(-np.log(sample.mean()) - value) < 4 * error


def test_two_body_laplacian_in_high_precision() -> None:
    """The formula as the paper has it, in 40 digits, by second differences."""
    x = np.random.default_rng(10).normal(size=(3, 5)) / 3
    c = np.random.default_rng(100).normal(size=4)

    def exact(*point: mpmath.mpf) -> mpmath.mpf:
        waves = [mpmath.sin(a + mpmath.cos(b) + b * mpmath.cos(a)) for a, b in pairwise(point)]
        return (1 - sum(a**2 for a in point)) * sum(k * w for k, w in zip(c.tolist(), waves, strict=True))

    values, laplacian = two_body(x)
    with mpmath.workdps(40):
        h = mpmath.mpf(10) ** -12
        for row, value, found in zip(x.tolist(), values, laplacian, strict=True):
            point = [mpmath.mpf(a) for a in row]
            total = mpmath.mpf(0)
            for i in range(5):
                plus, minus = ([a + sign * h * (k == i) for k, a in enumerate(point)] for sign in (1, -1))
                total += (exact(*plus) - 2 * exact(*point) + exact(*minus)) / h**2
            assert float(exact(*point)) == pytest.approx(value, rel=1e-13)
            assert float(total) == pytest.approx(found, rel=1e-13)


def test_readings_have_the_noise_that_is_stated() -> None:
    problem = problems.get("heat1d-inverse")()
    (readings,) = problem.conditions()
    assert isinstance(readings, Readings)
    exact = problem.solution(readings.x)
    noise = (readings.values - exact) / np.abs(exact).max()
    assert noise.std() == pytest.approx(0.01, rel=4 / np.sqrt(2 * len(noise)))
    assert abs(noise.mean()) < 4 * 0.01 / np.sqrt(len(noise))


@pytest.mark.parametrize(
    ("name", "part", "error"),
    [("hjb20d", None, 5.5e-2), ("heat100d-hard", None, 2.7e-2), ("heat100d", "linear", 1.65e-4)],
)
def test_published_and_stated_floors(name: str, part: str | None, error: float) -> None:
    """Of the best function of a kind, or of a network that answers 0."""
    problem = problems.get(name)()
    x = problem.test_points()
    constraint = problem.constraint(x)
    if part is not None:
        assert problem.trivial_floor()[part] == pytest.approx(error, rel=0.03)
    else:
        assert constraint is not None
        assert relative_l2(constraint.offset.value, problem.solution(x)) == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", [DEFAULT_PRECISION, FLOAT])
def test_every_problem_trains_by_its_defaults(name: str, precision: str) -> None:
    settings = Settings.of(name, precision=precision, batch=8, steps=2)
    solver = settings.solver(threads=1)
    solver.train()
    assert np.isfinite(solver.evaluate())
