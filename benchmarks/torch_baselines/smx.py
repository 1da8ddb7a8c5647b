"""SMX in PyTorch: tensors of floats whose 4x4 blocks hold what mantissas and one power of two can (docs/spec.md, 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Bits = int | Tensor  # a tensor broadcasts to blocks, (..., 1, 1)
LOWEST, HIGHEST = -127, 127  # exponents


def tiles(x: Tensor) -> Tensor:
    """(..., rows, cols) as blocks (..., R, C, 4, 4), zeros at the edges."""
    rows, cols = x.shape[-2:]
    if rows % 4 or cols % 4:
        x = torch.nn.functional.pad(x, (0, -cols % 4, 0, -rows % 4))
    return x.unflatten(-1, (-1, 4)).unflatten(-3, (-1, 4)).transpose(-2, -3)


def untiled(blocks: Tensor, rows: int, cols: int) -> Tensor:
    """Inverse of :func:`tiles`."""
    whole = blocks.transpose(-2, -3).flatten(-2).flatten(-3, -2)
    return whole[..., :rows, :cols]


def half_away(x: Tensor) -> Tensor:
    """To the nearest integer, ties away from zero; floor(|x| + 1/2) would round the number just below a half up."""
    size = x.abs()
    whole = size.floor()
    return torch.copysign(whole + (size - whole >= 0.5).to(x.dtype), x)


def block_exponent(blocks: Tensor, bits: Bits) -> Tensor:
    """The exponent that each block's largest element gives it, (..., 1, 1)."""
    _, power = torch.frexp(blocks.abs().amax(dim=(-2, -1), keepdim=True))  # largest = f * 2^power, f >= 1/2
    return power - 1 - (bits - 2)


def quantize_blocks(blocks: Tensor, bits: Bits, rounding: Callable[[Tensor], Tensor] = half_away) -> Tensor:
    """The nearest values (or those that ``rounding`` picks) that SMX(bits) holds, blocks (..., 4, 4)."""
    scale = torch.exp2(block_exponent(blocks, bits).clamp(LOWEST, HIGHEST).to(blocks.dtype))
    limit = 2 ** (bits - 1) - 1
    return rounding(blocks / scale).clamp(-limit, limit) * scale


def quantize(x: Tensor, bits: Bits, rounding: Callable[[Tensor], Tensor] = half_away) -> Tensor:
    """:func:`quantize_blocks` of a matrix (..., rows, cols); ``bits`` broadcasts to its blocks."""
    return untiled(quantize_blocks(tiles(x), bits, rounding), *x.shape[-2:])
