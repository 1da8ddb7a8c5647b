"""A PyTorch model as an engine of the solver, which then draws the points, forms the residual and steps Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from picopinn.engine import Pass
from picopinn.network import Floats

from .model import Model, Stage


class TorchEngine:
    """See :class:`picopinn.engine.Engine`; ``trains`` keeps the graph of each forward for its backward."""

    def __init__(self, model: Model, trains: bool = True) -> None:
        self.model = model
        self._trains = trains
        self.stages: list[Stage] = []
        self._kept: list[tuple[Floats, Floats | None, Tensor]] = []  # this step's forwards

    def load(self, master: Floats) -> None:
        self.model.load(master)
        self._kept.clear()
        with torch.set_grad_enabled(self._trains):
            self.stages = self.model.stages()

    def snap(self, points: Floats) -> Floats:
        return self.model.snap(self._tensor(points)).double().numpy()

    def snap_directions(self, directions: Floats) -> Floats:
        return self.model.snap_directions(self._tensor(directions)).double().numpy()

    def forward(self, points: Floats, directions: Floats | None) -> Floats:
        with torch.set_grad_enabled(self._trains):
            along = None if directions is None else self._tensor(directions)
            streams = self.model.streams(self.stages, self._tensor(points), along)
        if self._trains:
            self._kept.append((points, directions, streams))
        return streams.detach().double().numpy()

    def gradient(self, passes: Sequence[Pass], step: int) -> Floats:
        outputs = [self._output(one) for one in passes]
        cotangents = [self._tensor(one.cotangents) for one in passes]
        gradients = self.model.gradient(outputs, cotangents, step)
        return np.concatenate([g.double().numpy().ravel() for g in gradients])

    def _output(self, one: Pass) -> Tensor:
        """The forward that these points had in this step."""
        return next(s for points, along, s in self._kept if points is one.points and along is one.directions)

    def _tensor(self, array: Floats) -> Tensor:
        return torch.tensor(array, dtype=self.model.dtype)

    def state(self) -> dict[str, NDArray[Any]]:
        return {}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Baselines are not resumed."""

    def evaluator(self) -> TorchEngine:
        return TorchEngine(self.model.evaluation(), trains=False)

    def warnings(self) -> list[str]:
        return []
