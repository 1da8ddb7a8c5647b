"""u and its derivatives at points, and what else is known of u: hard constraints, penalties, readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

Floats = NDArray[np.float64]
Target = Callable[[Floats], Floats]


class Field:
    """u at n points; only the parts that were given are there.

    Attributes:
        value: u, (n,).
        gradient: by all columns of a point, time included, (n, D).
        laplacian: over the space columns, (n,).
        gradient_squared: ``|grad u|^2`` over the space columns, (n,). With fewer directions than dimensions the square
            of the estimated gradient is biased; this is not (:class:`picopinn.Estimator`).
        time: du/dt, (n,), of problems with time.
        unknowns: present values of a problem's unknown coefficients, (n,) each.
    """

    value: NDArray[Any]
    gradient: NDArray[Any]
    laplacian: NDArray[Any]
    gradient_squared: NDArray[Any]
    time: NDArray[Any]
    unknowns: Mapping[str, NDArray[Any]]

    def __init__(
        self,
        value: NDArray[Any] | None = None,
        gradient: NDArray[Any] | None = None,
        laplacian: NDArray[Any] | None = None,
        gradient_squared: NDArray[Any] | None = None,
        time: NDArray[Any] | None = None,
        unknowns: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        parts = {
            "value": value,
            "gradient": gradient,
            "laplacian": laplacian,
            "gradient_squared": gradient_squared,
            "time": time,
            "unknowns": unknowns,
        }
        self.__dict__.update({name: part for name, part in parts.items() if part is not None})

    def __getattr__(self, name: str) -> Any:
        if name in type(self).__annotations__:
            raise UsageError(f"u.{name} is not there: a residual reads the same parts of u every time it is called")
        raise AttributeError(f"u has no part {name!r}: it has {', '.join(type(self).__annotations__)}")

    def scaled(self, factor: Floats) -> Field:
        """Every part times a factor (n,) of its point."""
        parts: dict[str, Any] = {}
        for name, part in vars(self).items():
            if name == "unknowns":
                parts[name] = {key: value * factor for key, value in part.items()}
            else:
                parts[name] = part * (factor[:, None] if part.ndim == 2 else factor)
        return Field(**parts)


@dataclass(frozen=True, eq=False)
class Constraint:
    """u = offset + factor N by construction, N the network; value, gradient and Laplacian of both at n points."""

    offset: Field
    factor: Field

    def apply(self, network: Field, space: slice) -> Field:
        """u's value, gradient and Laplacian from the network's."""
        a, b = self.offset, self.factor
        value = network.value[:, None]
        crossed = (b.gradient[:, space] * network.gradient[:, space]).sum(axis=1)
        return Field(
            a.value + b.value * network.value,
            a.gradient + value * b.gradient + b.value[:, None] * network.gradient,
            a.laplacian + network.value * b.laplacian + 2 * crossed + b.value * network.laplacian,
        )

    def transpose(self, bar: Field, space: slice) -> Field:
        """Cotangents of the network's field from those of u's, of all three parts each."""
        b = self.factor
        gradient = b.value[:, None] * bar.gradient
        gradient[:, space] += 2 * bar.laplacian[:, None] * b.gradient[:, space]
        value = b.value * bar.value + (b.gradient * bar.gradient).sum(axis=1) + b.laplacian * bar.laplacian
        return Field(value, gradient, b.value * bar.laplacian)


@dataclass(frozen=True)
class Condition:
    """A soft condition, ``weight`` times the mean of (u - values)^2 over n points drawn anew each step.

    Attributes:
        name: such as ``boundary`` or ``initial``.
        weight: in the loss.
        points: draws n points (n, D).
        values: of u there, (n,).
    """

    name: str
    weight: float
    points: Callable[[np.random.Generator, int], Floats]
    values: Target

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Floats, Target]:
        """n points, and the values that u should have where these are held."""
        return self.points(rng, n), self.values


@dataclass(frozen=True, eq=False)
class Readings:
    """Observations: ``weight`` times the mean of (u - values)^2 over n of them, drawn anew each step.

    Attributes:
        name: such as ``sensors``.
        weight: in the loss.
        x: where u was read, (m, D).
        values: what was read, (m,), noise and all.
    """

    name: str
    weight: float
    x: Floats
    values: Floats

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Floats, Target]:
        """n readings' places, and what was read there."""
        rows = rng.integers(len(self.x), size=n)
        return self.x[rows], lambda held: self.values[rows]
