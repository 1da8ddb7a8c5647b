"""The Allen-Cahn equation in 100 dimensions, as Shi et al. (NeurIPS 2024) pose it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .field import Field, Floats
from .twobody import TwoBody, two_body


class AllenCahn100D(TwoBody):
    """lap u + u - u^3 = f in the 100-D unit ball, with the two-body solution (:class:`.twobody.TwoBody`)."""

    name = "allencahn100d"
    description = "lap u + u - u^3 = f in the 100-D unit ball, two-body solution, boundary hard"

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        value, laplacian = two_body(x)
        residual: NDArray[Any] = u.laplacian + u.value - u.value**3 - (laplacian + value - value**3)
        return residual
