"""Derivatives of u from its streams along directions, and the way back (the Stein estimator of He et al.,
AISTATS 2023, with Gaussian steps; orthogonal ones and jets beside it).

Every mode's streams reduce to u, odd parts a_k = (u(x + d_k) - u(x - d_k)) / 2 and even parts
s_k = (u(x + d_k) + u(x - d_k)) / 2 - u(x); for ``jet`` these are the Taylor terms u' d and d' u'' d / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .errors import UsageError
from .network import Floats, Mode
from .problems import Field

Kind = Literal["jet", "orthogonal", "gaussian"]
Quantization = Literal["naive", "difference", "odd-even"]

_GAUSSIAN_PAIRS = 64


@dataclass(frozen=True)
class Estimator:
    """How gradient and Laplacian are estimated from K directions.

    Args:
        kind: ``jet`` takes derivatives along unit directions; ``orthogonal`` and ``gaussian`` take finite steps, along
            rows of a random orthogonal matrix or of independent normal numbers.
        sigma: size of a step's component (``orthogonal``: steps of length sigma sqrt(D)); ``jet`` takes no steps.
        directions: K; by default D, ``gaussian``: 64. ``jet`` with K = D is exact, with fewer unbiased.
        quantization: how finite steps travel: as points (``naive``), as differences, or as odd and even parts.

    Raises:
        UsageError: a choice that does not exist, or a size that cannot work.
    """

    kind: Kind = "jet"
    sigma: float = 0.01
    directions: int | None = None
    quantization: Quantization = "odd-even"

    def __post_init__(self) -> None:
        for what, value, choices in (
            ("estimator", self.kind, get_args(Kind)),
            ("quantization", self.quantization, get_args(Quantization)),
        ):
            if value not in choices:
                raise UsageError(f"{what} {value!r} is unknown: choose one of {', '.join(choices)}")
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UsageError(f"sigma must be a positive number, got {self.sigma}")
        if self.directions is not None and self.directions < 1:
            raise UsageError(f"directions must be at least 1, got {self.directions}")

    @property
    def mode(self) -> Mode:
        """The streams that the device carries (spec 4)."""
        return "jet" if self.kind == "jet" else self.quantization

    def count(self, dimensions: int) -> int:
        """K in that many dimensions; UsageError if orthogonal rows run out."""
        if self.kind == "gaussian":
            return self.directions or _GAUSSIAN_PAIRS
        if self.directions is not None and self.directions > dimensions:
            raise UsageError(
                f"{self.kind} has at most {dimensions} directions in {dimensions} dimensions, got {self.directions}: "
                "take fewer, or the gaussian estimator"
            )
        return self.directions or dimensions

    def draw(self, rng: np.random.Generator, dimensions: int) -> Floats:
        """Directions of one step, (K, D)."""
        count = self.count(dimensions)
        if self.kind == "gaussian":
            return rng.normal(0.0, self.sigma, (count, dimensions))
        if self.kind == "orthogonal":
            return self.sigma * math.sqrt(dimensions) * _orthogonal(rng, count, dimensions)
        return np.eye(dimensions) if count == dimensions else _orthogonal(rng, count, dimensions)

    def frame(self, directions: Floats) -> Frame:
        """What these directions (K, D) make of streams.

        Orthogonal rows use their own length, not the nominal one, because a device rounds directions.
        """
        count, dimensions = directions.shape
        square = (directions * directions).sum(axis=1)
        if self.kind == "gaussian":
            variance = self.sigma**2
            even = (square - variance * dimensions) / (count * variance**2)
            return Frame(self.mode, 1 / (count * variance) * directions, even)
        odd = dimensions / (count * square)
        return Frame(self.mode, odd[:, None] * directions, 2 * odd)


@dataclass(frozen=True, eq=False)
class Frame:
    """The linear map from streams along K directions to a field, and its transpose.

    Attributes:
        mode: of the streams.
        odd: what a_k adds to the gradient, (K, D).
        even: what s_k adds to the Laplacian, (K,).
    """

    mode: Mode
    odd: Floats
    even: Floats

    def derivatives(self, streams: Floats) -> Field:
        """u, its gradient and Laplacian from streams (n, 1 + 2 K)."""
        first, second = streams[:, 1::2], streams[:, 2::2]
        if self.mode in ("naive", "difference"):
            first, second = (first - second) / 2, (first + second) / 2
        if self.mode == "naive":
            second = second - streams[:, :1]
        return Field(streams[:, 0], first @ self.odd, second @ self.even)

    def cotangents(self, bar: Field) -> Floats:
        """The exact transpose of :meth:`derivatives`: the field's cotangents to those of the streams, (n, 1 + 2 K)."""
        first = bar.gradient @ self.odd.T
        second = bar.laplacian[:, None] * self.even
        streams = np.empty((len(first), 1 + 2 * len(self.even)))
        streams[:, 0] = bar.value
        if self.mode == "naive":
            streams[:, 0] -= second.sum(axis=1)
        if self.mode in ("naive", "difference"):
            first, second = (second + first) / 2, (second - first) / 2
        streams[:, 1::2], streams[:, 2::2] = first, second
        return streams


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Rows of a uniformly distributed orthogonal matrix, but for their signs, which no estimate depends on."""
    frame, _ = np.linalg.qr(rng.normal(size=(columns, rows)))
    result: Floats = frame.T
    return result
