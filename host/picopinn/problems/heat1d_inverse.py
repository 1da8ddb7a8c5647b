"""An inverse problem: the diffusivity of a rod, from sensors along it that read with noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .field import Condition, Field, Floats, Readings

_DIFFUSIVITY = 0.1
_SENSORS, _TIMES, _NOISE, _SEED = 20, 50, 0.01, 7


class Heat1DInverse(Problem):
    """u_t = k u_xx on [0, 1] x [0, 1] with k unknown; u at 20 places and 50 times, with noise of 1 % of its largest.

    The readings are those of u = exp(-k pi^2 t) sin(pi x) + exp(-4 k pi^2 t) sin(2 pi x) / 2 at k = 0.1, an exact
    solution, and normal noise of a fixed seed. Neither initial nor boundary values are given: the sensors alone say
    what u is. k starts at 0.5.
    """

    name = "heat1d-inverse"
    dimensions = 2
    time = True
    description = "u_t = k u_xx, k from sensors with 1 % noise"
    boundary_weight = 10.0
    defaults: ClassVar = {"hidden": 64, "tt": (8, 8), "omega": 3.0, "learning_rate": 1e-2, "steps": 4000}
    unknowns: ClassVar = {"diffusivity": 0.5}
    true_unknowns: ClassVar = {"diffusivity": _DIFFUSIVITY}

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time - u.unknowns["diffusivity"] * u.laplacian
        return residual

    def conditions(self) -> Sequence[Condition | Readings]:
        return (Readings("sensors", self.boundary_weight, *self.readings()),)

    def readings(self) -> tuple[Floats, Floats]:
        """Where sensors are, (m, 2), and what they read, (m,)."""
        places, times = (np.arange(_SENSORS) + 0.5) / _SENSORS, np.linspace(0, 1, _TIMES)
        x = np.stack(np.meshgrid(places, times, indexing="ij"), axis=-1).reshape(-1, 2)
        u = self.solution(x)
        noise = np.random.default_rng(_SEED).normal(0.0, _NOISE * np.abs(u).max(), len(u))
        return x, u + noise

    def solution(self, x: Floats) -> Floats:
        place, t = x.T
        first, second = (np.exp(-_DIFFUSIVITY * (k * np.pi) ** 2 * t) * np.sin(k * np.pi * place) for k in (1, 2))
        values: Floats = first + second / 2
        return values
