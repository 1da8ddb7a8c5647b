"""Estimators: exact where theory says so, unbiased elsewhere, and with a true transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn.errors import UsageError
from picopinn.estimators import Estimator, Kind, Quantization
from picopinn.problems import Field

Floats = NDArray[np.float64]

KINDS: tuple[Kind, ...] = ("jet", "orthogonal", "gaussian")
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
        return np.stack(columns, axis=1)


@pytest.mark.parametrize("dimensions", [1, 2, 7])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("kind", ["jet", "orthogonal"])
def test_full_sets_of_orthogonal_directions_are_exact_for_quadratics(
    kind: Kind, quantization: Quantization, dimensions: int
) -> None:
    u, rng = Quadratic(dimensions), np.random.default_rng(1)
    x = rng.random((5, dimensions))
    estimator = Estimator(kind, sigma=0.1, quantization=quantization)
    directions = estimator.draw(rng, dimensions)
    field = estimator.frame(directions).derivatives(u.streams(x, directions, estimator.mode))
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
        field = estimator.frame(directions).derivatives(u.streams(x, directions, estimator.mode))
        laplacians[i], gradients[i] = field.laplacian[0], field.gradient[0]
    return u, laplacians, gradients


@pytest.mark.parametrize(
    "estimator",
    [Estimator("gaussian", directions=16), Estimator("jet", directions=2), Estimator("orthogonal", directions=2)],
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
    streams = rng.normal(size=(6, 7))
    bar = Field(rng.normal(size=6), rng.normal(size=(6, 5)), rng.normal(size=6))
    frame = estimator.frame(directions)
    field = frame.derivatives(streams)
    forward = field.value @ bar.value + (field.gradient * bar.gradient).sum() + field.laplacian @ bar.laplacian
    assert (frame.cotangents(bar) * streams).sum() == pytest.approx(forward, rel=1e-12)


@pytest.mark.parametrize("count", [2, 5])
def test_orthogonal_draws_are_orthogonal_with_one_radius(count: int) -> None:
    directions = Estimator("orthogonal", sigma=0.02, directions=count).draw(np.random.default_rng(5), 5)
    np.testing.assert_allclose(directions @ directions.T, 0.02**2 * 5 * np.eye(count), atol=1e-15)


def test_a_full_set_of_jets_is_the_identity() -> None:
    assert (Estimator("jet").draw(np.random.default_rng(0), 3) == np.eye(3)).all()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"kind": "hutchinson"}, "'hutchinson' is unknown.*gaussian"),
        ({"quantization": "even"}, "'even' is unknown.*odd-even"),
        ({"sigma": 0.0}, "sigma must be a positive number"),
        ({"sigma": float("nan")}, "sigma must be a positive number"),
        ({"directions": 0}, "directions must be at least 1"),
    ],
)
def test_impossible_choices_are_refused(options: dict[str, Any], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        Estimator(**options)


def test_more_orthogonal_directions_than_dimensions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"at most 2 directions in 2 dimensions, got 3.*gaussian"):
        Estimator("jet", directions=3).draw(np.random.default_rng(0), 2)
