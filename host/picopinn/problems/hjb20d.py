"""The 20-D Hamilton-Jacobi-Bellman problem of Zhao et al., with its hard terminal condition."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Problem
from .field import Constraint, Field, Floats


class HJB20D(Problem):
    """u_t + lap u - 0.05 |grad u|^2 = -2 on [0, 1]^20 x [0, 1] with u(x, 1) = |x|_1, from an optimal control.

    From Zhao et al., "Tensor-Compressed Back-Propagation-Free Training for (Physics-Informed) Neural Networks"
    (arXiv 2308.09858), as are network and training. The solution |x|_1 + 1 - t is exact. By the hard condition
    u = |x|_1 + (1 - t) N the network has to learn the constant 1; one that answers 0 has an error of 5.5e-2.
    """

    name = "hjb20d"
    dimensions = 21
    time = True
    description = "u_t + lap u - 0.05 |grad u|^2 = -2 in 20-D, terminal condition hard"
    defaults: ClassVar = {
        "hidden": 512,
        "layers": 2,
        "tt": (16, 32),
        "rank": 2,
        "activation": "sine",
        "learning_rate": 0.003,
        "steps": 10000,
    }

    def residual(self, x: Floats, u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time + u.laplacian - 0.05 * u.gradient_squared + 2
        return residual

    def constraint(self, x: Floats) -> Constraint:
        zero, last = np.zeros(len(x)), np.eye(self.dimensions)[-1]
        offset = Field(x[:, self.space].sum(axis=1), np.ones(x.shape) - last, zero)
        return Constraint(offset, Field(1 - x[:, -1], np.zeros(x.shape) - last, zero))

    def solution(self, x: Floats) -> Floats:
        values: Floats = x[:, self.space].sum(axis=1) + 1 - x[:, -1]
        return values
