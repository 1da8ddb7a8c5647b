"""Estimators: exact where theory says so, unbiased elsewhere, and with a true transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn.estimators import Estimator, Kind, Quantization, Squared
from picopinn.network import stream_count
from picopinn.problems import Constraint, Field

Floats = NDArray[np.float64]

KINDS: tuple[Kind, ...] = ("jet", "laplacian", "orthogonal", "gaussian")
QUANTIZATIONS: tuple[Quantization, ...] = ("naive", "difference", "odd-even")


class Quadratic:
    """u = x'Hx / 2 + b'x + c, whose streams have no truncation error in any mode."""

    def __init__(self, dimensions: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        half = rng.normal(size=(dimensions, dimensions))
        self.hessian, self.slope, self.constant = half + half.T, rng.normal(size=dimensions), 0.7

    def __call__(self, x: Floats) -> Floats:
        values: Floats = 0.5 * np.einsum("ni,ij,nj->n", x, self.hessian, x) + x @ self.slope + self.constant
        return values

    def gradient(self, x: Floats) -> Floats:
        slope: Floats = x @ self.hessian + self.slope
        return slope

    @property
    def laplacian(self) -> float:
        return float(np.trace(self.hessian))

    def streams(self, x: Floats, directions: Floats, mode: str) -> Floats:
        columns = [self(x)]
        for d in directions:
            odd, even = self.gradient(x) @ d, np.full(len(x), 0.5 * d @ self.hessian @ d)
            plus, minus = self(x + d), self(x - d)
            if mode == "naive":
                columns += [plus, minus]
            elif mode == "difference":
                columns += [plus - columns[0], minus - columns[0]]
            else:
                columns += [odd, even]
        return collapsed(np.stack(columns, axis=1), mode)


def collapsed(streams: Floats, mode: str) -> Floats:
    """Streams of jets with the even ones summed, but for that of time, if a mode wants them so."""
    if not mode.startswith("laplacian"):
        return streams
    odd, even = streams[:, 1::2], streams[:, 2::2]
    counted = even[:, :-1] if mode == "laplacian-time" else even
    return np.concatenate([streams[:, :1], odd, counted.sum(axis=1, keepdims=True)], axis=1)


@pytest.mark.parametrize("dimensions", [1, 2, 7])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("kind", ["jet", "laplacian", "orthogonal"])
def test_full_sets_of_orthogonal_directions_are_exact_for_quadratics(
    kind: Kind, quantization: Quantization, dimensions: int
) -> None:
    u, rng = Quadratic(dimensions), np.random.default_rng(1)
    x = rng.random((5, dimensions))
    estimator = Estimator(kind, sigma=0.1, quantization=quantization)
    directions = estimator.draw(rng, dimensions)
    field = estimator.frame(directions).derivatives(u.streams(x, directions, estimator.mode()))
    np.testing.assert_allclose(field.value, u(x), rtol=1e-12)
    np.testing.assert_allclose(field.gradient, u.gradient(x), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(field.laplacian, u.laplacian, rtol=1e-8)


def estimates(estimator: Estimator, dimensions: int, draws: int) -> tuple[Quadratic, Floats, Floats]:
    """Laplacians (draws,) and gradients (draws, D) of many draws at one point, and the function they belong to."""
    u, rng = Quadratic(dimensions), np.random.default_rng(2)
    x = np.full((1, dimensions), 0.3)
    laplacians, gradients = np.empty(draws), np.empty((draws, dimensions))
    for i in range(draws):
        directions = estimator.draw(rng, dimensions)
        field = estimator.frame(directions).derivatives(u.streams(x, directions, estimator.mode()))
        laplacians[i], gradients[i] = field.laplacian[0], field.gradient[0]
    return u, laplacians, gradients


@pytest.mark.parametrize(
    "estimator",
    [Estimator("gaussian", directions=16), *(Estimator(kind, directions=2) for kind in KINDS if kind != "gaussian")],
    ids=lambda e: e.kind,
)
def test_fewer_directions_are_unbiased(estimator: Estimator) -> None:
    draws = 4000
    u, laplacians, gradients = estimates(estimator, 4, draws)
    error = abs(laplacians.mean() - u.laplacian)
    assert error < 4 * laplacians.std() / np.sqrt(draws)
    exact = u.gradient(np.full((1, 4), 0.3))[0]
    assert (np.abs(gradients.mean(axis=0) - exact) < 4 * gradients.std(axis=0) / np.sqrt(draws)).all()


def test_gaussian_noise_is_the_one_papers_report() -> None:
    """11% for |x|^2 in two dimensions with 1024 pairs; in closed form sqrt(208) / 4 / sqrt(1024)."""
    estimator = Estimator("gaussian", directions=1024)
    rng = np.random.default_rng(3)
    laplacians = []
    for _ in range(1000):
        directions = estimator.draw(rng, 2)
        streams = np.zeros((1, 1 + 2 * len(directions)))
        streams[0, 2::2] = (directions**2).sum(axis=1)
        laplacians.append(estimator.frame(directions).derivatives(streams).laplacian[0])
    assert np.std(laplacians) / 4 == pytest.approx(np.sqrt(208) / 4 / 32, rel=0.1)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_cotangents_are_the_transpose_of_derivatives(kind: Kind, quantization: Quantization) -> None:
    rng = np.random.default_rng(4)
    estimator = Estimator(kind, sigma=0.5, directions=3, quantization=quantization)
    directions = estimator.draw(rng, 5)
    streams = rng.normal(size=(6, stream_count(estimator.mode(), 3)))
    bar = Field(rng.normal(size=6), rng.normal(size=(6, 5)), rng.normal(size=6))
    frame = estimator.frame(directions)
    field = frame.derivatives(streams)
    forward = field.value @ bar.value + (field.gradient * bar.gradient).sum() + field.laplacian @ bar.laplacian
    assert (frame.cotangents(bar, streams) * streams).sum() == pytest.approx(forward, rel=1e-12)


def test_time_has_a_direction_of_its_own_and_no_part_in_the_laplacian() -> None:
    u, rng = Quadratic(4), np.random.default_rng(1)
    x = rng.random((5, 4))
    for estimator in (Estimator(), Estimator("laplacian"), Estimator("orthogonal", sigma=0.1)):
        directions = estimator.draw(rng, 4, time=True)
        assert len(directions) == estimator.count(4, time=True) == 4
        field = estimator.frame(directions, time=True).derivatives(
            u.streams(x, directions, estimator.mode(time=True)), ("gradient", "laplacian", "time", "gradient_squared")
        )
        np.testing.assert_allclose(field.gradient, u.gradient(x), rtol=1e-8)
        np.testing.assert_allclose(field.time, u.gradient(x)[:, 3], rtol=1e-8)
        np.testing.assert_allclose(field.laplacian, np.trace(u.hessian[:3, :3]), rtol=1e-8)
        np.testing.assert_allclose(field.gradient_squared, (u.gradient(x)[:, :3] ** 2).sum(axis=1), rtol=1e-8)


def cubic_streams(x: Floats, directions: Floats) -> tuple[Floats, Floats, Floats]:
    """Odd-even streams (1, S), gradient (D,) and Hessian of a cubic with every kind of term, at one point."""
    a = np.random.default_rng(5).normal(size=(x.size,) * 3)

    def u(at: Floats) -> Any:
        return np.einsum("ijk,i,j,k->", a, at, at, at)

    parts = [u(x)]
    for d in directions:
        parts += [(u(x + d) - u(x - d)) / 2, (u(x + d) + u(x - d)) / 2 - u(x)]
    symmetric = sum(a.transpose(order) for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)))
    hessian = np.einsum("ijk,k->ij", symmetric, x)
    return np.array([parts]), hessian @ x / 2, hessian


@pytest.mark.parametrize("time", [False, True])
def test_a_sparse_grid_is_steins_identity_itself_for_cubics(time: bool) -> None:
    """The Gaussian mean of a cubic's gradient adds that of its third derivatives, which the step's size scales."""
    estimator, x = Estimator("smolyak", sigma=1e-3), np.array([0.3, -0.2, 0.5, 0.1])
    directions = estimator.draw(np.random.default_rng(0), 4, time)
    streams, gradient, hessian = cubic_streams(x, directions)
    field = estimator.frame(directions, time).derivatives(streams, ("gradient", "laplacian", "gradient_squared"))
    space = 4 - time
    np.testing.assert_allclose(field.gradient[0], gradient, atol=1e-4)
    assert field.laplacian[0] == pytest.approx(np.trace(hessian[:space, :space]), rel=1e-6)
    assert field.gradient_squared[0] == pytest.approx((gradient[:space] ** 2).sum(), rel=1e-3)


def test_the_sparse_grid_in_21_dimensions_is_the_published_one() -> None:
    """925 nodes (Zhao et al.): the centre and 462 pairs."""
    assert 1 + 2 * Estimator("smolyak").count(21, time=True) == 925


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_noise_of_orthogonal_directions_is_that_of_drawing_without_replacement(count: int) -> None:
    """Var = D^2 v (D - K) / (K (D - 1)) with v = 2 (D tr H^2 - tr^2 H) / (D^2 (D + 2)) of one unit direction."""
    dimensions, draws = 8, 4000
    u, laplacians, _ = estimates(Estimator(directions=count), dimensions, draws)
    one = 2 * (dimensions * (u.hessian**2).sum() - u.laplacian**2) / (dimensions + 2)
    expected = one * (dimensions - count) / (count * (dimensions - 1))
    assert laplacians.var() == pytest.approx(expected, rel=0.15, abs=1e-12)


@pytest.mark.parametrize(
    ("estimator", "factor"),
    [
        (Estimator(directions=2), 1.0),
        (Estimator(directions=2, squared="plain"), 4.0),  # D / K
        (Estimator("orthogonal", directions=2), 1.0),
        (Estimator("gaussian", directions=4), 1.0),
        (Estimator("gaussian", directions=5), 1.0),
        (Estimator("gaussian", directions=4, squared="plain"), 1 + 9 / 4),  # 1 + (D + 1) / K
    ],
    ids=lambda value: f"{value.kind} {value.squared}" if isinstance(value, Estimator) else "",
)
def test_gradients_are_squared_without_bias_or_with_the_known_one(estimator: Estimator, factor: float) -> None:
    dimensions, draws = 8, 6000
    slope, rng = np.linspace(-1, 1, dimensions), np.random.default_rng(6)
    found = np.empty(draws)
    for i in range(draws):
        directions = estimator.draw(rng, dimensions)
        streams = np.zeros((1, 1 + 2 * len(directions)))
        streams[0, 1::2] = directions @ slope
        found[i] = estimator.frame(directions).derivatives(streams, ("gradient_squared",)).gradient_squared[0]
    assert abs(found.mean() - factor * slope @ slope) < 4 * found.std() / np.sqrt(draws)


class Hard:
    """A constraint with every derivative."""

    def __call__(self, x: Floats) -> Constraint:
        offset = Field(x[:, 0] ** 2, np.eye(x.shape[1])[0] * 2 * x[:, :1], np.full(len(x), 2.0))
        factor = Field((x**2).sum(axis=1), 2 * x, np.full(len(x), 2.0 * (x.shape[1] - 1)))
        return Constraint(offset, factor)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("squared", ["plain", "unbiased"])
@pytest.mark.parametrize("kind", [*KINDS, "smolyak"])
def test_cotangents_are_the_derivative_of_any_field(kind: Kind, squared: Squared, hard: bool) -> None:
    """Of all parts at once, |grad u|^2 included, with time, with and without a hard constraint."""
    rng, n = np.random.default_rng(7), 5
    estimator = Estimator(kind, 0.5, None if kind == "smolyak" else 3, squared=squared)
    directions = estimator.draw(rng, 4, time=True)
    frame, x = estimator.frame(directions, time=True), rng.random((n, 4))
    streams, along = rng.normal(size=(2, n, stream_count(estimator.mode(time=True), len(directions))))
    bar = Field(*(rng.normal(size=shape) for shape in (n, (n, 4), n, n, n)))
    constraint = Hard()(x) if hard else None

    def paired(streams: Floats) -> float:
        u = frame.derivatives(streams, tuple(vars(bar)), constraint)
        return float(sum((getattr(u, part) * value).sum() for part, value in vars(bar).items()))

    step = 1e-6
    slope = (paired(streams + step * along) - paired(streams - step * along)) / (2 * step)
    assert (frame.cotangents(bar, streams, constraint) * along).sum() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_a_hard_constraint_has_the_derivatives_of_its_product() -> None:
    """u = x_1^2 + |x|^2 N with a quadratic N, by finite differences of u itself."""
    network, x = Quadratic(3), np.random.default_rng(8).random((4, 3))
    directions = np.eye(3)
    frame = Estimator().frame(directions, time=True)
    streams = network.streams(x, directions, "jet")
    u = frame.derivatives(streams, ("value", "gradient", "laplacian", "gradient_squared"), Hard()(x))

    def value(at: Floats) -> Floats:
        return at[:, 0] ** 2 + (at**2).sum(axis=1) * network(at)

    h = 1e-4
    plus, minus = (np.stack([value(x + sign * h * d) for d in directions], axis=1) for sign in (1, -1))
    np.testing.assert_allclose(u.value, value(x), rtol=1e-12)
    np.testing.assert_allclose(u.gradient, (plus - minus) / (2 * h), rtol=1e-6)
    second = (plus + minus - 2 * value(x)[:, None]) / h**2
    np.testing.assert_allclose(u.laplacian, second[:, :2].sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(u.gradient_squared, (u.gradient[:, :2] ** 2).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize("count", [2, 5])
def test_orthogonal_draws_are_orthogonal_with_one_radius(count: int) -> None:
    directions = Estimator("orthogonal", sigma=0.02, directions=count).draw(np.random.default_rng(5), 5)
    np.testing.assert_allclose(directions @ directions.T, 0.02**2 * 5 * np.eye(count), atol=1e-15)


def test_a_full_set_of_jets_is_the_identity() -> None:
    assert (Estimator("jet").draw(np.random.default_rng(0), 3) == np.eye(3)).all()
