"""Float32 with Taylor coefficients carried forward: the fastest exact derivatives there are without quantization.

A layer maps u, a = u' d and s = d' u'' d / 2 of each direction d together: linear maps take all of them alike, and an
activation phi gives phi, phi' a and phi' s + phi'' a^2 / 2. For the Laplacian alone the sum of all s is carried instead
of each (the forward Laplacian, Li et al., Nature Machine Intelligence 2024); along a few directions these are the jets
of STDE (Shi et al., NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from picopinn.network import Activation, Network

from .model import Model, Stage


def curve(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """phi, phi' and phi'' / 2 at z."""
    if activation == "sine":
        h = torch.sin(z)
        return h, torch.cos(z), h * -0.5
    h = torch.tanh(z)
    slope = 1 - h * h
    return h, slope, -h * slope


class Taylor(Model):
    """Streams of the value (n, w), of slopes (K, n, w) and of curvatures (K, n, w), or of their sum (1, n, w)."""

    def __init__(self, network: Network) -> None:
        super().__init__(network, torch.float32)

    def laplacian(self, stages: Sequence[Stage], x: Tensor) -> Tensor:
        """lap u (n,)."""
        _, _, total = self._propagate(stages, x, torch.eye(x.shape[1], dtype=x.dtype), summed=True)
        return 2 * total[0]

    def streams(self, stages: Sequence[Stage], x: Tensor, directions: Tensor | None) -> Tensor:
        if directions is None:
            return self.value(stages, x)[:, None]
        u, slopes, bends = self._propagate(stages, x, directions, summed=False)
        pairs = torch.stack([slopes, bends], dim=1).flatten(0, 1)
        return torch.cat([u[None], pairs]).T

    def _propagate(
        self, stages: Sequence[Stage], x: Tensor, directions: Tensor, summed: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """u (n,), its slopes (K, n) and its curvatures, (K, n) or their sum (1, n)."""
        count, phi = len(directions), self.network.activation
        first, *rest = stages  # the first is apart: slopes are the same at all points there, curvatures zero
        z = _activated(phi, x @ first.matrix + first.bias, (directions @ first.matrix)[:, None], None, summed)
        for stage in rest:
            z = z @ stage.matrix
            if stage.activates:
                z = _activated(phi, z[0] + stage.bias, z[1 : 1 + count], z[1 + count :], summed)
        z = z[..., 0]
        return z[0] + rest[-1].bias, z[1 : 1 + count], z[1 + count :]


def _activated(phi: Activation, value: Tensor, slopes: Tensor, bends: Tensor | None, summed: bool) -> Tensor:
    h, p, q = curve(phi, value)
    curved = q * slopes.square()
    curved = curved.sum(dim=0, keepdim=True) if summed else curved
    return torch.cat([h[None], p * slopes, curved if bends is None else torch.addcmul(curved, p, bends)])
