"""The Allen-Cahn equation in one dimension, with a reference that is computed when it is first asked for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .domains import Strip
from .field import Field, Floats

_DIFFUSION, _REACTION = 1e-3, 5.0
_CELLS, _SLICES, _SUBSTEPS = 1024, 128, 4  # of the reference
_STENCIL = 6  # points of its interpolation, along place and along time


class AllenCahn1D(Strip):
    """u_t = 0.001 u_xx + 5 (u - u^3) on [-1, 1] x [0, 1] with u(x, 0) = x^2 cos(pi x), u(+-1, t) = -1.

    As Yu et al. pose it in "Gradient-enhanced physics-informed neural networks" (arXiv 2111.02801), with their hard
    conditions u = x^2 cos(pi x) + t (1 - x^2) N. Near u = 0 an error grows as exp(5 t), so the residual is weighted by
    exp(-5 t): what is wrong early costs most in the end. The reference is Strang's splitting of diffusion, exact in
    sines, and reaction, exact at each point, extrapolated from two step sizes. It agrees to 1e-6 with half the cells
    and half the steps.
    """

    name = "allencahn1d"
    description = "u_t = 0.001 u_xx + 5 (u - u^3), x^2 cos(pi x) at first, conditions hard"
    defaults: ClassVar = {
        "precision": "w12a12g12",  # with 8-bit activations some seeds end twice as far off
        "hidden": 64,
        "tt": (8, 8),
        "rank": 16,
        "activation": "sine",
        "omega": 8.0,
        "learning_rate": 0.01,
        "steps": 20000,
    }

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time - _DIFFUSION * u.laplacian - _REACTION * (u.value - u.value**3)
        return residual * np.exp(-_REACTION * x[:, -1])

    def offset(self, place: Floats) -> Field:
        cosine, sine = np.cos(np.pi * place), np.pi * np.sin(np.pi * place)
        slope = 2 * place * cosine - place**2 * sine
        curvature = (2 - (np.pi * place) ** 2) * cosine - 4 * place * sine
        return Field(place**2 * cosine, np.column_stack([slope, np.zeros(len(place))]), curvature)

    def solution(self, x: Floats) -> Floats:
        return interpolate(reference(), np.column_stack([(x[:, 0] + 1) / 2, x[:, 1]]))


@lru_cache(maxsize=4)
def reference(cells: int = _CELLS, slices: int = _SLICES, substeps: int = _SUBSTEPS) -> Floats:
    """u on a grid, (``slices`` + 1, ``cells`` + 1): times from 0 to 1, places from -1 to 1."""
    once, twice = (_split(cells, slices, count) for count in (substeps, 2 * substeps))
    return (4 * twice - once) / 3  # the splitting's error is even in its step


def _split(cells: int, slices: int, substeps: int) -> Floats:
    """Strang's splitting; u + 1, which vanishes at the ends, diffuses."""
    x, step = np.linspace(-1, 1, cells + 1), 1 / (slices * substeps)
    decay = np.exp(-_DIFFUSION * step * (np.pi * np.arange(cells + 1) / 2) ** 2)
    u = np.empty((slices + 1, cells + 1))
    u[0] = x**2 * np.cos(np.pi * x)
    for k in range(slices):
        now = _react(u[k], step / 2)
        for _ in range(substeps - 1):
            now = _react(_diffuse(now, decay), step)
        u[k + 1] = _react(_diffuse(now, decay), step / 2)
    return u


def _react(u: Floats, duration: float) -> Floats:
    """u_t = 5 (u - u^3), exactly."""
    grown: Floats = u / np.sqrt(u**2 + (1 - u**2) * np.exp(-2 * _REACTION * duration))
    return grown


def _diffuse(u: Floats, decay: Floats) -> Floats:
    """Each sine of u + 1 decays by its factor; an odd continuation makes them the modes of a Fourier transform."""
    odd = np.concatenate([u + 1, -(u[-2:0:-1] + 1)])
    return np.fft.irfft(np.fft.rfft(odd) * decay, len(odd))[: len(u)] - 1


def interpolate(table: Floats, x: Floats) -> Floats:
    """Values (n,) of a table over [0, 1]^2, time by place, at points (n, 2) of place and time: Lagrange polynomials
    through the nearest nodes."""
    rows, row_weights = _lagrange(x[:, 1], table.shape[0])
    columns, column_weights = _lagrange(x[:, 0], table.shape[1])
    near = table[rows[:, :, None], columns[:, None, :]]
    values: Floats = np.einsum("nij,ni,nj->n", near, row_weights, column_weights)
    return values


def _lagrange(x: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Nodes (n, ``_STENCIL``) around x in [0, 1], of ``count`` even ones, and their weights."""
    position = x * (count - 1)
    first = np.clip(np.floor(position).astype(np.int64) - _STENCIL // 2 + 1, 0, count - _STENCIL)
    offsets = np.arange(_STENCIL)
    distance = (position - first)[:, None] - offsets
    weights = np.ones(distance.shape)
    for k in offsets:
        for other in offsets[offsets != k]:
            weights[:, k] *= distance[:, other] / (k - other)
    return first[:, None] + offsets, weights
