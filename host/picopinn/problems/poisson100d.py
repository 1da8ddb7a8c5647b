"""Poisson's equation in 100 dimensions, as Shi et al. (NeurIPS 2024) pose it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .field import Field, Floats
from .twobody import TwoBody, two_body


class Poisson100D(TwoBody):
    """lap u = f in the 100-D unit ball, with the two-body solution (:class:`.twobody.TwoBody`)."""

    name = "poisson100d"
    description = "lap u = f in the 100-D unit ball, two-body solution, boundary hard"

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian - two_body(x)[1]
        return residual
