"""Burgers' equation as Raissi et al. (J. Comput. Phys. 2019) pose it, with its solution by Cole and Hopf."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .domains import Strip
from .field import Field, Floats

_NODES = 128
_TOGETHER = 4096  # points whose quadrature is done at once


class Burgers1D(Strip):
    """u_t + u u_x = v u_xx on [-1, 1] x [0, 1] with u(x, 0) = -sin(pi x), u(+-1, t) = 0; a shock forms at x = 0.

    From "Physics-informed neural networks" (J. Comput. Phys. 378, 2019); viscosity v = 0.01 / pi there and here.
    Both conditions hold by construction: u = -sin(pi x) + t (1 - x^2) N. So that the shock, 0.01 wide, neither goes
    unseen nor drowns the rest, points crowd about x = 0 (evenly in the root of |x|) and the residual is divided by
    (1 + u_x^2 / 10)^(1/2). The reference is the Cole-Hopf solution
    (Basdevant et al., Computers & Fluids 14, 1986), two integrals by Gauss-Hermite quadrature that agree with twice
    the nodes to 1e-14.
    """

    name = "burgers1d"
    description = "u_t + u u_x = viscosity u_xx, -sin(pi x) at first, conditions hard"
    defaults: ClassVar = {
        "precision": "w8a12g12",  # with 8-bit activations some seeds end three times as far off
        "hidden": 64,
        "tt": (8, 8),
        "omega": 3.0,
        "learning_rate": 0.005,
        "steps": 10000,
    }
    options: ClassVar = {"viscosity": 0.01 / np.pi}
    viscosity: float

    def interior(self, rng: np.random.Generator, n: int) -> Floats:
        x = super().interior(rng, n)
        x[:, 0] *= np.abs(x[:, 0])
        return x

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time + u.value * u.gradient[:, 0] - self.viscosity * u.laplacian
        return residual / np.sqrt(1 + u.gradient[:, 0] ** 2 / 10)

    def offset(self, place: Floats) -> Field:
        wave, slope = -np.sin(np.pi * place), -np.pi * np.cos(np.pi * place)
        return Field(wave, np.column_stack([slope, np.zeros(len(place))]), -(np.pi**2) * wave)

    def solution(self, x: Floats) -> Floats:
        parts = np.split(x, range(_TOGETHER, len(x), _TOGETHER))
        return np.concatenate([cole_hopf(part, self.viscosity) for part in parts])


def cole_hopf(x: Floats, viscosity: float, nodes: int = _NODES) -> Floats:
    """u (n,) at points (n, 2) of place and time: the mean of -sin(pi y) over y ~ N(x, 2 v t), weighted by
    exp(-cos(pi y) / (2 pi v))."""
    z, weights = np.polynomial.hermite.hermgauss(nodes)
    y = x[:, :1] + np.sqrt(4 * viscosity * x[:, 1:]) * z
    logarithm = -np.cos(np.pi * y) / (2 * np.pi * viscosity)
    weighted = weights * np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    u: Floats = -(weighted * np.sin(np.pi * y)).sum(axis=1) / weighted.sum(axis=1)
    return u
