"""What every body of the device offers: the kernels on this computer, the oracle, later boards.

All arrays are C-contiguous. A microbatch has S = ``stream_count(mode, K)`` streams for K directions. A row of B
blocks is ``mantissas (B, 16) int16`` and ``exponents (B,) int8``; results are ``(B, 16) int32`` with ``(B,) int16``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..network import Program

OVERFLOW, STEP = 1, 2  # sticky flags (spec 10)


@dataclass(frozen=True, eq=False)
class Rows:
    """Block rows in SMX: mantissas int16 (..., B, 16), exponents int8 (..., B)."""

    mantissas: NDArray[np.int16]
    exponents: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Values:
    """Block-scaled integers: mantissas int32 (..., B, 16), exponents int16 (..., B)."""

    mantissas: NDArray[np.int32]
    exponents: NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Scaling:
    """How gradients of one step accumulate (spec 7): an exponent per accumulator and the limit exponent t.

    Accumulators are ordered by stage: its matrix, then its bias if it closes.
    """

    exponents: NDArray[np.int16]
    limit: int


@dataclass(frozen=True, eq=False)
class Gradients:
    """Parameter gradients: ``values`` in SMX(16), the blocks in the order that ``load`` takes them (biases: row 0), and
    ``peaks`` uint32, one an accumulator.
    """

    values: Rows
    peaks: NDArray[np.uint32]


def pairs(directions: Rows) -> Rows:
    """Rows d_1, -d_1, d_2, -d_2, ... that difference mode runs."""
    both = np.stack([directions.mantissas, -directions.mantissas], axis=1)
    mantissas = np.ascontiguousarray(both.reshape(-1, *directions.mantissas.shape[1:]))
    return Rows(mantissas, np.repeat(directions.exponents, 2, axis=0))


class Device(Protocol):
    """A machine that runs a Program in integers.

    What may be repeated without harm: every verb but ``backward``, and a step from ``begin`` on.
    """

    def configure(self, program: Program, directions: int) -> None:
        """Prepare for a program and up to so many directions; forgets everything else."""

    def load(self, weights: Rows) -> None:
        """Set all parameters: the blocks of ``Program.tensors`` concatenated (biases: row 0); contracts cores."""

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        """Outputs of n microbatches: points (n, R, B) with R = 1 (naive: S), directions (K, B) -> (n, S, out B).

        ``keep`` hints that a backward over the same points follows.
        """

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        """Clear gradients; set their exponents and the random counters of a step."""

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        """Accumulate gradients for cotangents (n, S, out B); ``first`` numbers the first microbatch in the step."""

    def gradients(self) -> Gradients:
        """The sums since ``begin``, contracted back to the cores: the same blocks as ``load`` takes."""

    def flags(self) -> int:
        """Sticky OVERFLOW and STEP since the last call; clears them."""
