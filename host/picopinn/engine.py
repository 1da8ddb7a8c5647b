"""What the solver asks of whatever computes the network: floats here, or integers on a device.

``S`` streams for K directions, as many and in the order of docs/spec.md, section 4; without directions, u(x) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from .network import Floats


@dataclass(frozen=True, eq=False)
class Pass:
    """One backward: points (n, D), directions (K, D) or None, and the loss's cotangents (n, S) of the outputs there."""

    points: Floats
    directions: Floats | None
    cotangents: Floats


@dataclass(frozen=True)
class Range:
    """How the numbers of a tensor lie in their widths, after a step.

    Attributes:
        tensor: its name.
        weights: smallest and largest exponent of the blocks that the step computed with; None if all are zero.
        gradients: the same of the step's gradients.
        accumulator: exponent in which the tensor's stage will sum the next gradients.
        saturations: tries of steps so far whose sums there grew too large, so that the step was repeated.
    """

    tensor: str
    weights: tuple[int, int] | None
    gradients: tuple[int, int] | None
    accumulator: int
    saturations: int


class Engine(Protocol):
    """A network of one output. Arrays are float64; points and directions are ones that ``snap...`` returned."""

    def load(self, master: Floats) -> None:
        """Set all parameters: one flat vector in ``Program.tensors`` order, C order within each."""

    def snap(self, points: Floats) -> Floats:
        """The nearest points that are held exactly, (n, D)."""

    def snap_directions(self, directions: Floats) -> Floats:
        """The nearest directions that are held exactly, (K, D)."""

    def forward(self, points: Floats, directions: Floats | None) -> Floats:
        """The streams (n, S) at points (n, D) along directions (K, D)."""

    def gradient(self, passes: Sequence[Pass], step: int) -> Floats:
        """Sum over passes of d sum(cotangents * streams) / d master, flat; ``step`` seeds stochastic rounding."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What a resumed run needs beyond the master."""

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Continue from a ``state``."""

    def evaluator(self) -> Engine:
        """The engine for using the trained solver; it needs a ``load``."""

    def ranges(self) -> list[Range]:
        """How each tensor's numbers lie after a step; none where numbers have no widths."""

    def warnings(self) -> list[str]:
        """What a person should know about the numbers so far, a sentence each."""
