"""Derivatives of u from its streams along directions, and the way back (the Stein estimator of He et al.,
AISTATS 2023, with Gaussian steps; sparse-grid ones, orthogonal ones and jets beside it).

Every mode's streams reduce to u, odd parts a_k = (u(x + d_k) - u(x - d_k)) / 2 and even parts
s_k = (u(x + d_k) + u(x - d_k)) / 2 - u(x); for ``jet`` these are the Taylor terms u' d and d' u'' d / 2, and
``laplacian`` has one even part, the sum of them (the forward Laplacian of Li et al., Nature Machine Intelligence 2024).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np

from .errors import UsageError
from .network import Floats, Mode, odd_and_even
from .problems import Constraint, Field

Kind = Literal["jet", "laplacian", "orthogonal", "gaussian", "smolyak"]
STEPLESS: tuple[Kind, ...] = ("jet", "laplacian")  # the others take finite steps
Quantization = Literal["naive", "difference", "odd-even"]
Squared = Literal["unbiased", "plain"]

PARTS = ("value", "gradient", "laplacian")  # of a field, unless a residual says which
_GAUSSIAN_PAIRS = 64


@dataclass(frozen=True)
class Estimator:
    """How gradient and Laplacian are estimated from K directions.

    Args:
        kind: ``jet`` takes derivatives along unit directions, ``laplacian`` the same, but the second ones as their sum,
            in K + 2 streams instead of 2 K + 1; the others take finite steps: ``orthogonal`` along rows of a random
            orthogonal matrix, ``gaussian`` along independent normal numbers, ``smolyak`` to the nodes of a sparse
            Gauss-Hermite grid (level 3, exact for cubic u).
        sigma: size of a step's component (``orthogonal``: steps of length sigma sqrt(D)), where there are steps.
        directions: K; by default D, the space alone; ``gaussian``: 64. ``jet`` and ``laplacian`` with K = D are exact,
            with fewer unbiased. Of a problem with time, they and ``orthogonal`` take one more along time; ``gaussian``
            and ``smolyak`` steps go through space and time together.
        quantization: how finite steps travel: as points (``naive``), as differences, or as odd and even parts.
        squared: ``|grad u|^2`` with fewer directions than dimensions: ``plain`` squares the estimated gradient, and is
            too large on average; ``unbiased`` multiplies those of two independent halves (``gaussian``), or sums the
            squared derivatives along orthogonal directions, which varies less.

    Raises:
        UsageError: a choice that does not exist, or a size that cannot work.
    """

    kind: Kind = "jet"
    sigma: float = 0.01
    directions: int | None = None
    quantization: Quantization = "odd-even"
    squared: Squared = "unbiased"

    def __post_init__(self) -> None:
        for what, value, choices in (
            ("estimator", self.kind, get_args(Kind)),
            ("quantization", self.quantization, get_args(Quantization)),
            ("squared", self.squared, get_args(Squared)),
        ):
            if value not in choices:
                raise UsageError(f"{what} {value!r} is unknown: choose one of {', '.join(choices)}")
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UsageError(f"sigma must be a positive number, got {self.sigma}")
        if self.directions is not None and self.directions < 1:
            raise UsageError(f"directions must be at least 1, got {self.directions}")
        if self.kind == "smolyak" and self.directions is not None:
            raise UsageError("a sparse grid has as many directions as it has nodes: leave out directions")

    def mode(self, time: bool = False) -> Mode:
        """The streams that the device carries (spec 4)."""
        if self.kind == "laplacian":
            return "laplacian-time" if time else "laplacian"
        return "jet" if self.kind == "jet" else self.quantization

    @property
    def _joint(self) -> bool:
        """Whether a step goes through space and time together."""
        return self.kind in ("gaussian", "smolyak")

    def chosen(self, dimensions: int, time: bool = False) -> int | None:
        """``directions``, or what they are by default in that many dimensions; None for a sparse grid.

        Raises:
            UsageError: more orthogonal directions than there is space.
        """
        if self.kind == "smolyak":
            return None
        if self.kind == "gaussian":
            return self.directions or _GAUSSIAN_PAIRS
        space = dimensions - time
        if self.directions is not None and self.directions > space:
            raise UsageError(
                f"{self.kind} has at most {space} directions in {space} dimensions{' of space' if time else ''}, got "
                f"{self.directions}: take fewer, or the gaussian estimator"
            )
        return self.directions or space

    def count(self, dimensions: int, time: bool = False) -> int:
        """Directions that the device carries, that of time included; UsageError as :meth:`chosen`."""
        chosen = self.chosen(dimensions, time)
        if chosen is None:
            return len(_sparse_grid(dimensions)[0])
        return chosen + (time and not self._joint)

    def draw(self, rng: np.random.Generator, dimensions: int, time: bool = False) -> Floats:
        """Directions of one step, (``count``, D); that of time is the last."""
        if self.kind == "smolyak":
            return self.sigma * _sparse_grid(dimensions)[0]
        count = self.count(dimensions, time)
        if self.kind == "gaussian":
            return rng.normal(0.0, self.sigma, (count, dimensions))
        space = dimensions - time
        length = self.sigma * math.sqrt(space) if self.kind == "orthogonal" else 1.0
        if self.kind in STEPLESS and count == dimensions:
            return np.eye(dimensions)
        directions = np.zeros((count, dimensions))
        directions[: count - time, :space] = length * _orthogonal(rng, count - time, space)
        if time:
            directions[-1, -1] = length
        return directions

    def frame(self, directions: Floats, time: bool = False) -> Frame:
        """What these directions (``count``, D) make of streams.

        Orthogonal rows use their own length, not the nominal one, because a device rounds directions.
        """
        return self._joint_frame(directions, time) if self._joint else self._orthogonal_frame(directions, time)

    def _joint_frame(self, directions: Floats, time: bool) -> Frame:
        """Stein's identities, the mean over nodes of a weight each."""
        count, dimensions = directions.shape
        space, variance = dimensions - time, self.sigma**2
        weights = np.full(count, 1 / count) if self.kind == "gaussian" else 2 * _sparse_grid(dimensions)[1]
        odd = (weights / variance)[:, None] * directions
        excess = (directions[:, :space] ** 2).sum(axis=1) - variance * space
        return Frame(
            self.mode(time), space, directions, odd, weights * excess / variance**2, self._squares(odd[:, :space])
        )

    def _orthogonal_frame(self, directions: Floats, time: bool) -> Frame:
        """Means over the directions of space, times its dimensions; time is exact by itself."""
        space = directions.shape[1] - time
        scale = 1 / (directions * directions).sum(axis=1)
        scale[: len(scale) - time] *= space / (len(scale) - time)
        odd, even = scale[:, None] * directions, 2 * scale
        if time:
            even[-1] = 0.0  # the Laplacian is over space
        squares = (odd[:, :space],) if self.squared == "plain" else (np.diag(np.sqrt(even / 2)),)
        if self.kind == "laplacian":
            even = even[: len(even) - time].mean(keepdims=True)  # directions are of one length, but for their rounding
        return Frame(self.mode(time), space, directions, odd, even, squares)

    def _squares(self, odd: Floats) -> tuple[Floats, ...]:
        """How odd parts become one gradient to be squared, or two independent ones to be multiplied."""
        half = len(odd) // 2
        if self.squared == "plain" or self.kind == "smolyak" or half == 0:
            return (odd,)
        left, right = odd.copy(), odd.copy()
        left[half:] = right[:half] = 0.0
        return len(odd) / half * left, len(odd) / (len(odd) - half) * right


@dataclass(frozen=True, eq=False)
class Frame:
    """The map from streams along K directions to a field, and its transpose.

    Attributes:
        mode: of the streams.
        space: number of the columns of space, D or D - 1.
        directions: (K, D).
        odd: what a_k adds to the gradient, (K, D).
        even: what s_k adds to the Laplacian, (K,); or what their sum does, (1,).
        squares: matrices (K, m), one or two, that map odd parts to vectors whose product is |grad u|^2.
    """

    mode: Mode
    space: int
    directions: Floats
    odd: Floats
    even: Floats
    squares: tuple[Floats, ...]

    def derivatives(
        self, streams: Floats, parts: Collection[str] = PARTS, constraint: Constraint | None = None
    ) -> Field:
        """These parts of u's field from the network's streams (n, S)."""
        value, odd, even = self._split(streams)
        gradient = odd @ self.odd if constraint is not None or {"gradient", "time"} & set(parts) else None
        u = Field(value, gradient, even @ self.even)
        if constraint is not None:
            u = constraint.apply(u, slice(self.space))
        found: dict[str, Any] = dict(vars(u))
        if "time" in parts:
            found["time"] = u.gradient[:, -1]
        if "gradient_squared" in parts:
            found["gradient_squared"] = np.multiply(*self._factors(self._along(value, odd, constraint))).sum(axis=1)
        return Field(**{part: found[part] for part in parts if part in found})

    def cotangents(self, bar: Field, streams: Floats, constraint: Constraint | None = None) -> Floats:
        """The transpose of :meth:`derivatives` at these streams: the field's cotangents to those of the streams,
        (n, S)."""
        given = vars(bar)
        zeros = np.zeros(len(streams))
        value, laplacian = given.get("value", zeros), given.get("laplacian", zeros)
        first: Floats | float = 0.0
        if constraint is not None or "gradient" in given or "time" in given:
            shape = len(streams), self.odd.shape[1]
            gradient = np.array(given["gradient"]) if "gradient" in given else np.zeros(shape)
            if "time" in given:
                gradient[:, -1] += bar.time
            if constraint is not None:
                network = constraint.transpose(Field(value, gradient, laplacian), slice(self.space))
                value, gradient, laplacian = network.value, network.gradient, network.laplacian
            first = gradient @ self.odd.T
        if "gradient_squared" in given:
            at_value, at_odd = self._squared_cotangents(bar.gradient_squared, streams, constraint)
            value, first = value + at_value, first + at_odd
        return self._joined(value, first, laplacian[:, None] * self.even)

    def _squared_cotangents(
        self, bar: Floats, streams: Floats, constraint: Constraint | None
    ) -> tuple[Floats | float, Floats]:
        """Cotangents of the network's value and odd parts from those of |grad u|^2."""
        value, odd, _ = self._split(streams)
        factors = self._factors(self._along(value, odd, constraint))
        matrices = self.squares[0], self.squares[-1]
        first: Floats = bar[:, None] * (factors[1] @ matrices[0].T + factors[0] @ matrices[1].T)
        if constraint is None:
            return 0.0, first
        b = constraint.factor
        return (first @ self.directions * b.gradient).sum(axis=1), b.value[:, None] * first

    def _along(self, value: Floats, odd: Floats, constraint: Constraint | None) -> Floats:
        """Odd parts of u from those of the network, (n, K)."""
        if constraint is None:
            return odd
        a, b = constraint.offset, constraint.factor
        along: Floats = (a.gradient + value[:, None] * b.gradient) @ self.directions.T + b.value[:, None] * odd
        return along

    def _factors(self, odd: Floats) -> tuple[Floats, Floats]:
        """Two vectors a point whose product is |grad u|^2."""
        left = odd @ self.squares[0]
        return left, left if len(self.squares) == 1 else odd @ self.squares[1]

    def _split(self, streams: Floats) -> tuple[Floats, Floats, Floats]:
        """u (n,), odd parts (n, K), and even ones, as many or one."""
        first, second = (streams[:, part] for part in odd_and_even(self.mode, streams.shape[1]))
        if self.mode in ("naive", "difference"):
            first, second = (first - second) / 2, (first + second) / 2
        if self.mode == "naive":
            second = second - streams[:, :1]
        return streams[:, 0], first, second

    def _joined(self, value: Floats, odd: Floats | float, even: Floats) -> Floats:
        """The transpose of :meth:`_split`."""
        streams = np.empty((len(even), 1 + len(self.odd) + len(self.even)))
        streams[:, 0] = value
        if self.mode == "naive":
            streams[:, 0] -= even.sum(axis=1)
        if self.mode in ("naive", "difference"):
            odd, even = (even + odd) / 2, (even - odd) / 2
        first, second = odd_and_even(self.mode, streams.shape[1])
        streams[:, first], streams[:, second] = odd, even
        return streams


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Rows of a uniformly distributed orthogonal matrix, but for their signs, which no estimate depends on."""
    frame, _ = np.linalg.qr(rng.normal(size=(columns, rows)))
    result: Floats = frame.T
    return result


@lru_cache(maxsize=4)
def _sparse_grid(dimensions: int) -> tuple[Floats, Floats]:
    """Smolyak's level 3 of Gauss-Hermite rules of 1, 2 and 3 nodes: one node of each antithetic pair (D^2 + D, D), and
    its weight; the centre, which no difference needs, is left out. Exact for polynomials of degree 5 under N(0, I).

    Of the combination formula (Gerstner and Griebel, Numerical Algorithms 1998) remain, beside the centre: single axes
    at +-1 with weight -(D - 1) / 2, at +-sqrt(3) with 1 / 6, and pairs of axes at (+-1, +-1) with 1 / 4.
    """
    axes = np.eye(dimensions)
    pairs = [axes[i] + sign * axes[j] for i, j in combinations(range(dimensions), 2) for sign in (1, -1)]
    nodes = np.concatenate([axes, math.sqrt(3) * axes, np.reshape(pairs, (-1, dimensions))])
    weights = np.repeat([-(dimensions - 1) / 2, 1 / 6, 1 / 4], [dimensions, dimensions, len(pairs)])
    return nodes, weights
