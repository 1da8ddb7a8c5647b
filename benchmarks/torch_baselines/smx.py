"""SMX in PyTorch: tensors of floats whose 4x4 blocks hold what mantissas and one power of two can (docs/spec.md, 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rounding = Callable[[Tensor], Tensor]
Bits = int | Tensor  # a tensor broadcasts to blocks, (..., 1, 1)
LOWEST, HIGHEST = -127, 127  # exponents


def tiles(x: Tensor) -> Tensor:
    """(..., rows, cols) as blocks (..., R, C, 4, 4), zeros at the edges."""
    return _cut(x).transpose(-2, -3)


def untiled(blocks: Tensor, rows: int, cols: int) -> Tensor:
    """Inverse of :func:`tiles`."""
    return _whole(blocks.transpose(-2, -3), rows, cols)


def _cut(x: Tensor) -> Tensor:
    """(..., R, 4, C, 4): blocks without moving a number."""
    rows, cols = x.shape[-2:]
    if rows % 4 or cols % 4:
        x = torch.nn.functional.pad(x, (0, -cols % 4, 0, -rows % 4))
    return x.unflatten(-1, (-1, 4)).unflatten(-3, (-1, 4))


def _whole(cut: Tensor, rows: int, cols: int) -> Tensor:
    return cut.flatten(-2).flatten(-3, -2)[..., :rows, :cols]


def half_away(x: Tensor) -> Tensor:
    """To the nearest integer, ties away from zero; floor(|x| + 1/2) would round the number just below a half up."""
    size = x.abs()
    whole = size.floor()
    return torch.copysign(whole + (size - whole >= 0.5).to(x.dtype), x)


def block_exponent(blocks: Tensor, bits: Bits, row: int = -2) -> Tensor:
    """The exponent that each block's largest element gives it, (..., 1, 1); a block's rows lie along axis ``row``."""
    largest = blocks.abs().amax(dim=row, keepdim=True).amax(dim=-1, keepdim=True)
    _, power = torch.frexp(largest)  # largest = f * 2^power, f >= 1/2
    return power - 1 - (bits - 2)


def quantize_blocks(blocks: Tensor, bits: Bits, rounding: Rounding = half_away, row: int = -2) -> Tensor:
    """The nearest values (or those that ``rounding`` picks) that SMX(bits) holds, blocks (..., 4, 4)."""
    scale = torch.exp2(block_exponent(blocks, bits, row).clamp(LOWEST, HIGHEST).to(blocks.dtype))
    limit = 2 ** (bits - 1) - 1
    return rounding(blocks / scale).clamp_(-limit, limit).mul_(scale)


def quantize(x: Tensor, bits: Bits, rounding: Rounding = half_away) -> Tensor:
    """:func:`quantize_blocks` of a matrix (..., rows, cols); ``bits`` broadcasts to its blocks."""
    return _whole(quantize_blocks(_cut(x), bits, rounding, row=-3), *x.shape[-2:])
