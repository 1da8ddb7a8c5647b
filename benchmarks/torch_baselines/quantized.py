"""Float32 with fake quantization: the forward of ``taylor.py``, and a quantizer wherever docs/spec.md has one.

This is what a person writes who quantizes a network in PyTorch: weights, streams and cotangents are rounded to what
4x4 blocks with one power of two hold, straight-through estimators pass the gradients, products and activations are
float32. It differs from the C in what quantized hardware adds to that: sums aligned to the largest exponent of their
terms, tables for tanh and sine, 16-bit pre-activations, ties, and which random number rounds which cotangent.
``exact.py`` has these too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from picopinn.network import Network, Precision

from .model import Model, Stage
from .smx import Bits, quantize
from .taylor import curve


class _Quantize(torch.autograd.Function):
    """Nearest values of SMX(bits); the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Bits) -> Tensor:
        return quantize(x, bits, torch.round)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _QuantizeGradient(torch.autograd.Function):
    """x as it is; its gradient to SMX(bits), rounded up or down at random or to the nearest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, stochastic: bool) -> Tensor:
        ctx.bits, ctx.stochastic = bits, stochastic
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return quantize(gradient, ctx.bits, _stochastic if ctx.stochastic else torch.round), None, None


def _stochastic(x: Tensor) -> Tensor:
    return torch.floor(x + torch.rand_like(x))


class Quantized(Model):
    """The network at a precision such as ``w8a8g12``, with jet streams."""

    def __init__(self, network: Network, precision: Precision, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(network, dtype, precision)
        self.precision = precision

    def matrix(self, index: int, cores: Sequence[Tensor]) -> Tensor:
        chain = self.program.stages[index].chain
        if chain is not None:
            shapes = [self.program.chains[chain].matrix_shape(k) for k in range(len(cores))]
            travels = [core.view(shape) for core, shape in zip(cores, shapes, strict=True)]
            cores = [_Quantize.apply(t, 16).view_as(core) for t, core in zip(travels, cores, strict=True)]
        return _Quantize.apply(super().matrix(index, cores), self.precision.weights)

    def bias(self, parameter: Tensor) -> Tensor:
        return _Quantize.apply(parameter[None], 16)[0]

    def laplacian(self, stages: Sequence[Stage], x: Tensor) -> Tensor:
        """lap u (n,)."""
        return 2 * self.streams(stages, x, torch.eye(x.shape[1], dtype=x.dtype))[:, 2::2].sum(dim=1)

    def value(self, stages: Sequence[Stage], x: Tensor) -> Tensor:
        return self.streams(stages, x, None)[:, 0]

    def streams(self, stages: Sequence[Stage], x: Tensor, directions: Tensor | None) -> Tensor:
        z = inputs(self.snap(x), None if directions is None else self.snap_directions(directions))
        for stage in stages:
            last = stage is stages[-1]
            z = _QuantizeGradient.apply(self.product(stage, z), self.precision.gradients, not last)
            z = z if last else self.next_input(stage, z)
        return z[:, : len(x), 0].T

    def product(self, stage: Stage, z: Tensor) -> Tensor:
        """Streams (S, n, inputs) to (S, n, outputs), and the bias to the first of them."""
        z = z @ stage.matrix
        return z if stage.bias is None else torch.cat([z[:1] + stage.bias, z[1:]])

    def next_input(self, stage: Stage, z: Tensor) -> Tensor:
        """What the next stage is given, from this one's products."""
        return _Quantize.apply(self._activated(z) if stage.activates else z, self.widths(len(z)))

    def _activated(self, z: Tensor) -> Tensor:
        h, p, q = curve(self.network.activation, z[:1])
        slopes, bends = z[1::2], z[2::2]
        pairs = torch.stack([p * slopes, torch.addcmul(q * slopes.square(), p, bends)], dim=1)
        return torch.cat([h, pairs.flatten(0, 1)])

    def widths(self, streams: int) -> Bits:
        """The width of every stream, for its blocks: (S, 1, 1, 1, 1), or one number where all have it."""
        if self.precision.base == self.precision.activations:
            return self.precision.activations
        return torch.tensor([self.precision.base] + [self.precision.activations] * (streams - 1)).view(-1, 1, 1, 1, 1)

    def snap(self, points: Tensor) -> Tensor:
        return quantize(points, self.precision.inputs)

    def snap_directions(self, directions: Tensor) -> Tensor:
        """Every direction is a block row of its own, four times the same."""
        return quantize(directions[:, None].expand(-1, 4, -1), self.precision.inputs)[:, 0]

    def evaluation(self) -> Model:
        return type(self)(self.network, self.precision.evaluation())


def inputs(x: Tensor, directions: Tensor | None) -> Tensor:
    """The streams that enter a network, (S, n, D): points, then each direction and zeros; points in whole blocks."""
    x = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 4))
    if directions is None:
        return x[None]
    along = directions[:, None].expand(-1, len(x), -1)
    return torch.cat([x[None], torch.stack([along, torch.zeros_like(along)], dim=1).flatten(0, 1)])
