"""The sine-Gordon equation in 100 dimensions, as Shi et al. (NeurIPS 2024) pose it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .field import Field, Floats
from .twobody import TwoBody, two_body


class SineGordon100D(TwoBody):
    """lap u + sin u = f in the 100-D unit ball, with the two-body solution (:class:`.twobody.TwoBody`)."""

    name = "sinegordon100d"
    description = "lap u + sin u = f in the 100-D unit ball, two-body solution, boundary hard"

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        value, laplacian = two_body(x)
        residual: NDArray[Any] = u.laplacian + np.sin(u.value) - (laplacian + np.sin(value))
        return residual
