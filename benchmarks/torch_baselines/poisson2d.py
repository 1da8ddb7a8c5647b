"""A training step of poisson2d in PyTorch alone: residual, loss, backward and fused Adam, as fast as a model allows.

Or of that problem in more dimensions (``scaling.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from picopinn import Problem, Solver
from picopinn.problems import get

from .model import Model


def training(model: Model, batch: int, compiled: bool = False, problem: Problem | None = None) -> Callable[[], object]:
    """The step, from the initial weights of a :class:`Solver` with seed 0; points are drawn anew each time."""
    problem = problem or get("poisson2d")()
    model.load(Solver(problem, model.network).master)
    adam = torch.optim.Adam(model.parameters, lr=1e-3, fused=True)
    rng = np.random.default_rng(0)

    def loss_at(x: Tensor, edge: Tensor) -> Tensor:
        stages = model.stages()
        residual = model.laplacian(stages, x) + torch.sin(x.sum(dim=1))
        gap = model.value(stages, edge) - torch.sin(edge.sum(dim=1)) / 2
        return residual.square().mean() + problem.boundary_weight * gap.square().mean()

    loss = torch.compile(loss_at) if compiled else loss_at

    def step() -> None:
        x, edge = (torch.tensor(draw(rng, batch), dtype=model.dtype) for draw in (problem.interior, problem.edge))
        adam.zero_grad()
        loss(x, edge).backward()
        adam.step()

    return step
