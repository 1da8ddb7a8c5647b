"""What the chip computes, slice by slice and bit by bit: products, sums, gradients and the quantizer of docs/spec.md.

A mantissa of b bits is ceil(b / 4) slices: the top one signed, the others 0 to 15. A processing element multiplies one
slice of each operand at a time and adds the 4x4 result, shifted to its place; so an 8-bit product is four such steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .array import SLICE_BITS, slices
from .workload import BLOCK

Ints = NDArray[np.int64]

ZERO_EXPONENT = -128  # of a block whose mantissas are all zero (spec 2)
EMPTY = -256  # exponent of a sum without terms (spec 3)
MIN_EXPONENT, MAX_EXPONENT = -127, 127
SUM_LIMIT = 1 << 30  # largest sum that the headroom shift allows (spec 3)


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix of blocks: mantissas (rows, cols, 4, 4), exponents (rows, cols), and their width."""

    mantissas: Ints
    exponents: Ints
    bits: int

    @property
    def transposed(self) -> Blocks:
        """The same blocks, read the other way."""
        return Blocks(self.mantissas.transpose(1, 0, 3, 2), self.exponents.T, self.bits)


def split(mantissas: Ints, bits: int) -> list[Ints]:
    """Slices, lowest first; all but the last are 0 to 15, the last carries the sign."""
    count = slices(bits)
    low = [(mantissas >> (SLICE_BITS * i)) & 15 for i in range(count - 1)]
    return [*low, mantissas >> (SLICE_BITS * (count - 1))]


def steps(bits_a: int, bits_b: int) -> Iterator[tuple[int, int]]:
    """Slice pairs in the order in which an element multiplies them, one a cycle at 64 multipliers."""
    for i in range(slices(bits_a)):
        for j in range(slices(bits_b)):
            yield i, j


def block_products(a: Ints, b: Ints, bits_a: int, bits_b: int) -> Ints:
    """4x4x4 products of blocks (..., 4, 4), exact: every slice pair shifted to its place and added."""
    left, right = split(a, bits_a), split(b, bits_b)
    shape = np.broadcast_shapes(a.shape, b.shape)
    total = np.zeros(shape, dtype=np.int64)
    for i, j in steps(bits_a, bits_b):
        total += (left[i] @ right[j]) << (SLICE_BITS * (i + j))
    return total


def aligned(x: Ints, shift: Ints) -> Ints:
    """x / 2^shift to nearest, ties up; x itself for shift <= 0 (spec 1)."""
    s = np.clip(shift, 0, 40)
    return (x + ((1 << s) >> 1)) >> s


def headroom(bits_a: int, bits_b: int, inner: int) -> int:
    """Shift that keeps a sum of ``inner`` block products within 2^30 (spec 3)."""
    term = BLOCK * ((1 << (bits_a - 1)) - 1) * ((1 << (bits_b - 1)) - 1)
    h = 0
    while inner * ((term >> h) + 1) > SUM_LIMIT:
        h += 1
    return h


def scan(a: Blocks, b: Blocks) -> tuple[Ints, NDArray[np.bool_]]:
    """Exponents of all block pairs (rows, inner, cols), and which of them count (no factor is a zero block)."""
    exponents = a.exponents[:, :, None] + b.exponents[None, :, :]
    present = (a.exponents != ZERO_EXPONENT)[:, :, None] & (b.exponents != ZERO_EXPONENT)[None, :, :]
    return exponents, present


def product(a: Blocks, b: Blocks) -> tuple[Ints, Ints]:
    """A B: sums (rows, cols, 4, 4) within 2^30 and their exponents (rows, cols) (spec 3)."""
    exponents, present = scan(a, b)
    top = np.where(present, exponents, EMPTY).max(axis=1)
    h = headroom(a.bits, b.bits, a.exponents.shape[1])
    total = np.zeros((*top.shape, BLOCK, BLOCK), dtype=np.int64)
    for k in range(a.exponents.shape[1]):
        term = block_products(a.mantissas[:, k, None], b.mantissas[None, k], a.bits, b.bits)
        shift = (top - exponents[:, k] + h)[..., None, None]
        total += np.where(present[:, k, :, None, None], aligned(term, shift), 0)
    return total, np.where(top == EMPTY, EMPTY, top + h)


def encode(x: Ints, exponents: Ints, bits: int, random: Ints | None = None) -> tuple[Ints, Ints]:
    """The quantizer: blocks of integers (..., 16) times 2^exponents to mantissas and exponents (spec 2.2).

    The OR of all magnitudes has the length of the largest. ``random`` 32-bit numbers make the rounding stochastic.
    """
    size = np.abs(x)
    highest = np.bitwise_or.reduce(size, axis=-1)
    shift = _length(highest) - 1 - (bits - 2)
    e = exponents + shift
    shift = shift + np.maximum(MIN_EXPONENT - e, 0)
    e = np.maximum(e, MIN_EXPONENT)
    down = np.clip(shift, 0, 32)[..., None]
    carry = (1 << down) >> 1 if random is None else ((1 << down) - 1) & random
    limit = (1 << (bits - 1)) - 1
    rounded = np.minimum((((size + carry) >> down) << np.maximum(-shift, 0)[..., None]), limit)
    rounded = np.where((shift >= 32)[..., None], 0, rounded)
    over = (e > MAX_EXPONENT) & (highest > 0)
    rounded = np.where(over[..., None], limit * (size > 0), rounded)
    e = np.where(rounded.any(axis=-1), np.minimum(e, MAX_EXPONENT), ZERO_EXPONENT)
    return np.sign(x) * rounded, e


def accumulate(sums: Ints, terms: Ints, exponents: Ints, exponent: int) -> Ints:
    """Gradient sums after block products ``terms`` (t, ..., 4, 4) were added, each rounded to ``exponent`` (spec 7)."""
    up = np.clip(exponents - exponent, 0, 30)[..., None, None]
    added: Ints = (aligned(terms, (exponent - exponents)[..., None, None]) << up).sum(axis=0)
    return sums + added


def _length(x: Ints) -> Ints:
    """Bits of x >= 0."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)
