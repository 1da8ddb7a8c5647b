"""What the chip computes, slice by slice and bit by bit: products, sums, gradients and the quantizer of docs/spec.md.

The activation unit is in ``activation.py``, a whole training step in ``step.py``.

A mantissa of b bits is ceil(b / 4) slices: the top one signed, the others 0 to 15. A processing element multiplies one
slice of each operand at a time and adds the 4x4 result, shifted to its place; so an 8-bit product is four such steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .array import SLICE_BITS, slices
from .workload import BLOCK

Ints = NDArray[np.int64]

ZERO_EXPONENT = -128  # of a block whose mantissas are all zero (spec 2)
EMPTY = -256  # exponent of a sum without terms (spec 3)
ABSENT = -(1 << 20)  # below every exponent: a term that does not count
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


@dataclass(frozen=True, eq=False)
class Scaled:
    """Blocks on their way between units: integers x (..., 16) times 2^e, e (...,)."""

    x: Ints
    e: Ints

    @property
    def nonzero(self) -> NDArray[np.bool_]:
        """Blocks, once encoded, that are not the zero block."""
        return np.not_equal(self.e, ZERO_EXPONENT)

    def __getitem__(self, index: Any) -> Scaled:
        """A part along the leading axes."""
        return Scaled(self.x[index], self.e[index])


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


def rounded(x: Ints, shift: Any) -> Ints:
    """The same for |x| <= 2^30: a shifter of 30 places, beyond which nothing is left (spec 1)."""
    return np.where(np.asarray(shift) > 30, 0, aligned(x, np.asarray(shift)))


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


class Term(NamedTuple):
    """One term of an aligned sum: integers (..., 16), exponents (...,), and where no factor is a zero block."""

    x: Ints
    e: Ints
    present: NDArray[np.bool_]


def aligned_sum(*terms: Term) -> Scaled:
    """The sum of terms at the largest exponent of those that count, with room for all of them (spec 3)."""
    h = (len(terms) - 1).bit_length()
    top = np.where(terms[0].present, terms[0].e, ABSENT)
    for term in terms[1:]:
        top = np.maximum(top, np.where(term.present, term.e, ABSENT))
    total: Ints = np.zeros((*top.shape, 1), dtype=np.int64)
    for term in terms:
        total = total + np.where(term.present[..., None], rounded(term.x, (top - term.e + h)[..., None]), 0)
    return Scaled(total, np.where(top == ABSENT, EMPTY, top + h))


def fix(block: Scaled, fraction: int, limit: int) -> Ints:
    """Blocks as fixed point with so many fraction bits, limited to +-limit (spec 3)."""
    up = block.e[..., None] + fraction
    moved = np.where(up >= 0, block.x << np.clip(up, 0, 15), rounded(block.x, -up))
    return np.clip(moved, -limit, limit)


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


def placed(terms: Ints, exponents: Ints, exponent: int) -> Ints:
    """Block products (t, ..., 4, 4) as they are added to a gradient, each rounded to its ``exponent`` (spec 7)."""
    up = np.clip(exponents - exponent, 0, 30)[..., None, None]
    moved: Ints = aligned(terms, (exponent - exponents)[..., None, None]) << up
    return moved


def _length(x: Ints) -> Ints:
    """Bits of x >= 0."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)
