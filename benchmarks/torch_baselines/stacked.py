"""Float32 with stacked automatic differentiation: the slope by one ``autograd.grad``, each curvature by one over it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from picopinn.network import Network

from .model import Model, Stage


class Stacked(Model):
    """How most physics-informed networks are trained."""

    def __init__(self, network: Network) -> None:
        super().__init__(network, torch.float32)

    def laplacian(self, stages: Sequence[Stage], x: Tensor) -> Tensor:
        """lap u (n,)."""
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.value(stages, x).sum(), x, create_graph=True)
        columns = range(x.shape[1])
        return sum(torch.autograd.grad(slope[:, d].sum(), x, create_graph=True)[0][:, d] for d in columns)

    def streams(self, stages: Sequence[Stage], x: Tensor, directions: Tensor | None) -> Tensor:
        if directions is None:
            return self.value(stages, x)[:, None]
        x = x.detach().requires_grad_()
        u = self.value(stages, x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        columns = [u]
        for d in directions:
            along = slope @ d
            (bend,) = torch.autograd.grad(along.sum(), x, create_graph=True)
            columns += [along, bend @ d / 2]
        return torch.stack(columns, dim=1)
