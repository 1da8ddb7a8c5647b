"""Adam (Kingma and Ba, ICLR 2015) on the host's float64 master, with a learning rate that decays linearly to zero."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from .errors import UsageError
from .network import Floats

# TT cores move slower than a dense matrix: W is a product of them, each entry a sum over many.
DEFAULT_LEARNING_RATE = 3e-3
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam for one flat vector.

    Args:
        size: elements of the vector.
        learning_rate: of the first step; step n of ``steps`` uses (1 - n / steps) of it.
    """

    def __init__(self, size: int, learning_rate: float, steps: int) -> None:
        self._rate, self._steps = learning_rate, steps
        self._mean, self._square = np.zeros(size), np.zeros(size)

    def update(self, master: Floats, gradient: Floats, step: int) -> None:
        """Move ``master`` in place by the gradient of a step, counted from 0."""
        adam, constants = self._kernel
        constants.rate = self._rate * (1 - step / self._steps) / (1 - _BETA1 ** (step + 1))
        constants.root = math.sqrt(1 - _BETA2 ** (step + 1))
        adam(np.ascontiguousarray(gradient), constants, self._mean, self._square, master)

    @cached_property
    def _kernel(self) -> tuple[Any, Any]:
        """The C that takes a step, and what a step depends on: ``rate`` and ``root`` are of one step."""
        from .kernels import adam, adam_step  # listings need no compiled kernels

        means = {"keep_mean": _BETA1, "take_mean": 1 - _BETA1, "keep_square": _BETA2, "take_square": 1 - _BETA2}
        return adam, adam_step({**means, "epsilon": _EPSILON})

    def state(self) -> dict[str, Floats]:
        """Running means of the gradient and of its square, copied."""
        return {"mean": self._mean.copy(), "square": self._square.copy()}

    def restore(self, state: dict[str, Floats]) -> None:
        """Continue from a ``state``; UsageError if it is of another size."""
        for name, own in (("mean", self._mean), ("square", self._square)):
            if state[name].shape != own.shape:
                raise UsageError(
                    f"the optimizer state has {state[name].size} values for {own.size} parameters: "
                    "resume with the network of the interrupted run"
                )
            own[:] = state[name]
