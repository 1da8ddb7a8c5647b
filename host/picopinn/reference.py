"""The specification in NumPy: the bit-exact oracle every other device is compared with (docs/spec.md).

Written for reading, not for speed. All integers are int64: the largest intermediate, a four-term gradient product
shifted up, stays below 2^32 * 2^30. Block-scaled integers are :class:`Scaled` arrays of shape (..., 16) and (...,);
for the streams of a network the leading axes are (microbatch, stream, block).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .device.base import OVERFLOW, STEP, Gradients, Rows, Scaling, Values
from .errors import UsageError
from .network import CORE_BITS, SUMMED, Activation, Chain, Mode, Program, Stage, Tensor, odd_and_even
from .smx import BLOCK, MAX_EXPONENT, MIN_EXPONENT, SMX, ZERO_EXPONENT, blocks_of, from_blocks, largest, to_blocks

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LANES = BLOCK * BLOCK
EMPTY = -256  # exponent of a sum without terms (spec 3)
WIDE = 16  # width of everything around an activation (spec 5, 6)
BOUND = 1 << 30  # largest |x| of a 32-bit rounding (spec 1)
X_BITS, X_LIMIT = 22, (1 << 25) - 1  # arguments of tables: |x| < 8 (spec 5)
STEP_EXPONENT = -12  # |d| < 8 for 16-bit mantissas (spec 5)
ABSENT = -(1 << 20)  # below every exponent: a term that does not count


# ---------------------------------------------------------------------------------------------- 1 rounding


def rnd_up(x: Ints, shift: ArrayLike) -> Ints:
    """x / 2^shift to nearest, ties up; x itself for shift <= 0; for |x| <= 2^30, 0 from shift 31 on (spec 1)."""
    return np.where((np.asarray(shift) == 31) & (x == BOUND), 0, rnd_up_wide(x, shift))


def rnd_up_wide(x: Ints, shift: ArrayLike) -> Ints:
    """The same of products of 64 bits, by the formula for every shift (spec 3). Needs |x| < 2^39."""
    s = np.clip(np.asarray(shift, dtype=np.int64), 0, 40)  # 40 and more: 0 for every x in range
    rounded: Ints = (x + ((1 << s) >> 1)) >> s
    return rounded


def rnd_away(x: Ints, shift: ArrayLike) -> Ints:
    """x / 2^shift to nearest, ties away from zero; x itself for shift <= 0 (spec 1)."""
    s = np.clip(np.asarray(shift, dtype=np.int64), 0, 40)
    size: Ints = (np.abs(x) + ((1 << s) >> 1)) >> s
    return np.sign(x) * size


def length(x: Ints) -> Ints:
    """Number of bits of x >= 0 (spec 1)."""
    _, power = np.frexp(x.astype(np.float64))  # exact below 2^53
    return power.astype(np.int64)


def trunc(n: Ints, d: Ints) -> Ints:
    """n / d towards zero, d >= 1 (spec 1)."""
    return np.sign(n) * (np.abs(n) // d)


def clip(x: Ints, limit: int) -> Ints:
    """x limited to [-limit, limit] (spec 1)."""
    return np.clip(x, -limit, limit)


# ------------------------------------------------------------------------------------------- 2 SMX blocks


@dataclass(frozen=True, eq=False)
class Scaled:
    """Blocks of integers m (..., 16) with one exponent e (...,) each: m * 2^e."""

    m: Ints
    e: Ints

    @property
    def scale(self) -> Ints:
        """Exponents with an axis for the lanes."""
        return self.e[..., None]

    @property
    def nonzero(self) -> Bools:
        """Blocks that are not the zero block; only for blocks that were encoded."""
        return np.not_equal(self.e, ZERO_EXPONENT)

    def at(self, *index: int | slice) -> Scaled:
        """A slice along the leading axes."""
        return Scaled(self.m[index], self.e[index])


def encode_int(x: Ints, exponent: ArrayLike, bits: ArrayLike, random: Ints | None = None) -> tuple[Ints, Ints, Bools]:
    """Encode blocks x (..., 16), |x| < 2^31, times 2^exponent to SMX(bits) (spec 2.2).

    ``exponent`` and ``bits`` broadcast to (...,); ``random`` (..., 16) 32-bit numbers make it stochastic.

    Returns:
        Mantissas (..., 16), exponents (...,) and whether each block saturated (...,).
    """
    size, shape = np.abs(x), x.shape[:-1]
    width = np.broadcast_to(np.asarray(bits, dtype=np.int64), shape)
    limit = np.asarray(largest(width), dtype=np.int64)[..., None]
    shift = length(size.max(axis=-1)) - 1 - (width - 2)
    e = np.broadcast_to(np.asarray(exponent, dtype=np.int64), shape) + shift
    shift = shift + np.maximum(MIN_EXPONENT - e, 0)
    e = np.maximum(e, MIN_EXPONENT)
    rounded = np.minimum(_shift_rounded(size, shift[..., None], random), limit)
    overflow = (e > MAX_EXPONENT) & size.any(axis=-1)
    rounded = np.where(overflow[..., None], limit * (size > 0), rounded)
    e = np.where(rounded.any(axis=-1), np.minimum(e, MAX_EXPONENT), ZERO_EXPONENT)
    return np.sign(x) * rounded, e, overflow


def _shift_rounded(size: Ints, shift: Ints, random: Ints | None) -> Ints:
    down = np.clip(shift, 0, 32)
    rest = (1 << down) >> 1 if random is None else ((1 << down) - 1) & random
    shifted = ((size + rest) >> down) << np.maximum(-shift, 0)
    return np.where(shift >= 32, 0, shifted)


class Sticky:
    """The flags that stay raised until read (spec 10)."""

    def __init__(self) -> None:
        self.value = 0

    def encode(self, x: Scaled, bits: ArrayLike, random: Ints | None = None) -> Scaled:
        """:func:`encode_int` that raises OVERFLOW."""
        m, e, overflow = encode_int(x.m, x.e, bits, random)
        self.value |= OVERFLOW if overflow.any() else 0
        return Scaled(m, e)

    def limit_step(self, d: Scaled) -> Scaled:
        """|d| < 8 for every finite step; raises STEP where it was not (spec 5)."""
        over = d.e > STEP_EXPONENT
        large = d.m << np.clip(d.scale - STEP_EXPONENT, 0, 15)  # 15 already takes every m != 0 past the limit
        cut = over & (np.abs(large) > 32767).any(axis=-1)
        self.value |= STEP if cut.any() else 0
        return Scaled(np.where(over[..., None], clip(large, 32767), d.m), np.where(over, STEP_EXPONENT, d.e))

    def encode_matrix(self, flat: Ints, exponent: int, bits: int) -> SMX:
        """Encode a (rows, cols) integer matrix of one exponent (spec 8)."""
        tiles = to_blocks(flat)
        e = np.full(tiles.shape[:2], exponent, dtype=np.int64)
        block = self.encode(Scaled(tiles.reshape(*tiles.shape[:2], LANES), e), bits)
        return _smx(block, (flat.shape[0], flat.shape[1]), bits)


def _smx(block: Scaled, shape: tuple[int, int], bits: int) -> SMX:
    tiles = block.m.reshape(*block.e.shape, BLOCK, BLOCK)
    return SMX(tiles.astype(np.int16), block.e.astype(np.int8), shape, bits)


# --------------------------------------------------------------------------------------------- 3 products


def headroom(p: int, q: int, inner: int) -> int:
    """Shift that keeps a sum of ``inner`` block products of widths p and q within 2^30 (spec 3)."""
    term = 4 * int(largest(p)) * int(largest(q))
    h = 0
    while inner * ((term >> h) + 1) > BOUND:
        h += 1
    return h


def row_product(a: Scaled, b: Scaled, shift: ArrayLike) -> Scaled:
    """Block rows a (..., n) times a block matrix b (n, q): (..., q), unencoded (spec 3).

    ``shift`` is the headroom and broadcasts to (..., q).
    """
    pair = a.nonzero[..., None] & b.nonzero
    exponent = np.where(pair, a.e[..., None] + b.e, ABSENT)
    top = exponent.max(axis=-2)
    left = a.m.reshape(*a.e.shape, 1, BLOCK, BLOCK)
    right = b.m.reshape(*b.e.shape, BLOCK, BLOCK)
    total = np.zeros((*top.shape, LANES), dtype=np.int64)
    for k in range(b.e.shape[0]):
        term = (left[..., k, :, :, :] @ right[k]).reshape(total.shape)
        aligned = rnd_up_wide(term, (top - exponent[..., k, :] + shift)[..., None])  # narrow ones are < 2^30
        total += np.where(pair[..., k, :, None], aligned, 0)
    return Scaled(total, np.where(top == ABSENT, EMPTY, top + shift))


def product(a: SMX, b: SMX, transpose_a: bool = False, transpose_b: bool = False) -> tuple[Ints, Ints]:
    """op(a) @ op(b), unencoded (spec 3).

    Returns:
        Mantissas (block rows, block cols, 4, 4) and exponents (block rows, block cols).

    Raises:
        UsageError: inner block counts differ.
    """
    left, right = operand(a, transpose_a), operand(b, transpose_b)
    inner = right.e.shape[0]
    if left.e.shape[1] != inner:
        raise UsageError(f"a product needs equal inner sizes, got {left.e.shape[1]} and {inner} blocks")
    c = row_product(left, right, headroom(a.bits, b.bits, inner))
    return c.m.reshape(*c.e.shape, BLOCK, BLOCK), c.e


def operand(matrix: SMX, transpose: bool = False) -> Scaled:
    """The blocks of a matrix or of its transpose, (block rows, block cols, 16)."""
    tiles, e = matrix.blocks.astype(np.int64), matrix.exponents.astype(np.int64)
    if transpose:
        tiles, e = tiles.transpose(1, 0, 3, 2), e.T
    return Scaled(tiles.reshape(*e.shape, LANES), e)


class Term(NamedTuple):
    """One term of an aligned sum: integers (..., 16), exponents (...,), and where no factor is a zero block."""

    x: Ints
    e: Ints
    present: Bools


def fixed_times(p: Ints, x: Scaled, fraction: int = 14) -> Term:
    """Plain fixed point p with ``fraction`` bits times a block."""
    return Term(p * x.m, x.e - fraction, x.nonzero)


def kept_times(x: Scaled, y: Scaled) -> Term:
    """A kept block (spec 5) times a block, element by element."""
    return Term(x.m * y.m, x.e + y.e, np.not_equal(x.e, EMPTY) & y.nonzero)


def aligned_sum(*terms: Term) -> Scaled:
    """The sum of terms at their largest exponent, with room for all of them (spec 3)."""
    h = (len(terms) - 1).bit_length()
    exponents = np.broadcast_arrays(*[np.where(t.present, t.e, ABSENT) for t in terms])
    top = np.max(np.stack(exponents), axis=0)
    total: Ints = np.zeros(1, dtype=np.int64)
    for term, e in zip(terms, exponents, strict=True):
        total = total + np.where(term.present[..., None], rnd_up(term.x, (top - e + h)[..., None]), 0)
    return Scaled(total, np.where(top == ABSENT, EMPTY, top + h))


def keep(x: Scaled) -> Scaled:
    """An aligned sum at 16 bits, at its own exponent; of one without terms nothing is left (spec 5)."""
    return Scaled(rnd_up(x.m, 15), np.where(x.e == EMPTY, EMPTY, x.e + 15))


def fix(x: Scaled, fraction: int, limit: int) -> Ints:
    """Blocks as fixed point with ``fraction`` bits, limited to +-limit (spec 3)."""
    up = x.scale + fraction
    return clip(np.where(up >= 0, x.m << np.clip(up, 0, 15), rnd_up(x.m, -up)), limit)


# ------------------------------------------------------------------------------------------------ 4.1 bias


def add_bias(acc: Scaled, bias: Scaled) -> Scaled:
    """Add row 0 of the bias blocks (B,) to every row of acc (..., B) (spec 4.1)."""
    row = np.tile(bias.m[:, :BLOCK], BLOCK)
    top = np.maximum(acc.e, bias.e - 14)
    lift = (bias.e - top)[..., None]  # at most 14
    scaled = np.where(lift >= 0, row << np.clip(lift, 0, 14), rnd_up(row, -lift))
    total = rnd_up(acc.m, (top - acc.e)[..., None]) + scaled
    present = bias.nonzero
    return Scaled(np.where(present[:, None], total, acc.m), np.where(present, top, acc.e))


# ---------------------------------------------------------------------------------------------- 5 tables


def _rounded(reals: NDArray[np.float64], fraction: int) -> Ints:
    return np.floor(np.ldexp(reals, fraction) + 0.5).astype(np.int64)


@cache
def tanh_table() -> Ints:
    """T: tanh(i / 128), i = 0..1024, 15 fraction bits (spec 5)."""
    return np.minimum(32767, _rounded(np.tanh(np.arange(1025) / 128), 15))


@cache
def sine_table() -> Ints:
    """U: sin(pi i / 1024), i = 0..513, 15 fraction bits (spec 5)."""
    return np.minimum(32767, _rounded(np.sin(np.pi * np.arange(514) / 1024), 15))


def _ratio_table(function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Ints:
    y = np.arange(1, 513) / 64
    return np.concatenate([[1 << 14], _rounded(function(y), 14)]).astype(np.int64)


@cache
def tanh_ratio() -> Ints:
    """RT: tanh(y) / y at y = i / 64, i = 0..512, 14 fraction bits (spec 5)."""
    return _ratio_table(lambda y: np.tanh(y) / y)


@cache
def sine_ratio() -> Ints:
    """RS: sin(y) / y at y = i / 64, i = 0..512, 14 fraction bits (spec 5)."""
    return _ratio_table(lambda y: np.sin(y) / y)


@cache
def cosine_ratio() -> Ints:
    """RC: (1 - cos y) / (y^2 / 2) at y = i / 64, i = 0..512, 14 fraction bits (spec 5)."""
    return _ratio_table(lambda y: (np.sin(y / 2) / (y / 2)) ** 2)  # 1 - cos y = 2 sin^2(y/2), no cancellation


def interpolate(table: Ints, position: Ints, fraction: int) -> Ints:
    """Table value at position / 2^fraction, linear between entries (spec 5)."""
    i, f = position >> fraction, position & ((1 << fraction) - 1)
    value: Ints = table[i] + rnd_up((table[i + 1] - table[i]) * f, fraction)
    return value


def ratio(table: Ints, d: Scaled) -> Ints:
    """An even ratio function at a limited step d, 14 fraction bits (spec 5)."""
    return interpolate(table, np.abs(fix(d, X_BITS, X_LIMIT)), 16)


# ----------------------------------------------------------------------------------- 5 activation functions


class Phi(NamedTuple):
    """phi(z) with 15 fraction bits and its first three derivatives with 14, (..., 16) (spec 5)."""

    h: Ints
    p1: Ints
    p2: Ints
    p3: Ints


def tanh_phi(z: Scaled) -> Phi:
    """tanh and its derivatives (spec 5)."""
    up = z.scale + X_BITS  # at 25 and above every m but 0 is past the limit
    x = clip(np.where(up >= 0, z.m << np.clip(up, 0, 25), rnd_up(z.m, -up)), X_LIMIT)
    h = np.sign(x) * interpolate(tanh_table(), np.abs(x), 15)
    p1 = rnd_up(BOUND - h * h, 16)
    p2 = rnd_up(-h * p1, 14)
    return Phi(h, p1, p2, rnd_up(-2 * p1 * p1 - h * p2, 14))


def sine_phi(z: Scaled) -> Phi:
    """sin and its derivatives (spec 5)."""
    angle = _angle(z)
    h = sin15(angle)
    g = rnd_up(sin15((angle + (1 << 22)) & 0xFFFFFF), 1)
    return Phi(h, g, rnd_up(-h, 1), -g)


def _angle(z: Scaled) -> Ints:
    """z in 2^-24 turns, 0 <= angle < 2^24 (spec 5)."""
    u = 4 * (5215 * z.m) + rnd_up(z.m * 6199, 13)
    up = z.scale + 7
    down = np.clip(-up, 1, 32)
    low = np.where(down < 32, (u >> down) + ((u >> (down - 1)) & 1), 0)
    high = np.where(up < 24, u << np.clip(up, 0, 23), 0)
    return np.where(up >= 0, high, low) & 0xFFFFFF


def sin15(angle: Ints) -> Ints:
    """sin of an angle in 2^-24 turns, 15 fraction bits (spec 5)."""
    quarter, v = angle >> 22, angle & 0x3FFFFF
    v = np.where(quarter & 1, (1 << 22) - v, v)
    return np.where(quarter & 2, -1, 1) * interpolate(sine_table(), v, 13)


PHI: dict[Activation, Callable[[Scaled], Phi]] = {"tanh": tanh_phi, "sine": sine_phi}


# ----------------------------------------------------------------------------------------- 5 stream modes


@dataclass(frozen=True, eq=False)
class Linearization:
    """What the activation leaves for backward (spec 5).

    Attributes:
        p1: slope of stream 0 (n, 1, B, 16); naive: of every stream (n, S, B, 16).
        odd: kept D of each direction (n, K, B), or P of the plus streams; None for naive.
        even: kept N of each even stream, as many of them, or one; or P of the minus streams; None for naive.
    """

    p1: Ints
    odd: Scaled | None = None
    even: Scaled | None = None


class Moved(NamedTuple):
    """New odd (plus) and even (minus) streams, and their D and N (P and P), all unencoded."""

    odd: Scaled
    even: Scaled
    d: Scaled
    n: Scaled


Rule = Callable[[Sticky, Phi, Scaled, Scaled], Moved]


def jet(sticky: Sticky, phi: Phi, a: Scaled, s: Scaled) -> Moved:
    """Taylor coefficients along each direction (spec 5, jet)."""
    q = rnd_up(a.m * a.m, 15)
    return Moved(
        odd=aligned_sum(fixed_times(phi.p1, a)),
        even=aligned_sum(fixed_times(phi.p1, s), Term(phi.p2 * q, 2 * a.e, a.nonzero)),
        d=aligned_sum(fixed_times(phi.p2, a)),
        n=aligned_sum(fixed_times(phi.p2, s), Term(phi.p3 * q, 2 * a.e, a.nonzero)),
    )


def laplacian(sticky: Sticky, phi: Phi, a: Scaled, s: Scaled) -> Moved:
    """Taylor coefficients along each direction, and the sum of their second ones (spec 5, laplacian)."""
    return _summed(sticky, phi, a, s, a)


def laplacian_time(sticky: Sticky, phi: Phi, a: Scaled, s: Scaled) -> Moved:
    """The same, where the last direction is time, which is left out of the sum (spec 5, laplacian)."""
    return _summed(sticky, phi, a, s, a.at(slice(None), slice(0, -1)))


def _summed(sticky: Sticky, phi: Phi, a: Scaled, s: Scaled, counted: Scaled) -> Moved:
    q = sticky.encode(_squares(counted), WIDE) if s.e.size else s
    return Moved(
        odd=aligned_sum(fixed_times(phi.p1, a)),
        even=aligned_sum(fixed_times(phi.p1, s), fixed_times(phi.p2, q, 15)),
        d=aligned_sum(fixed_times(phi.p2, a)),
        n=aligned_sum(fixed_times(phi.p2, s), fixed_times(phi.p3, q, 15)),
    )


def _squares(a: Scaled) -> Scaled:
    """The sum of a_k^2 over k, (n, 1, B), unencoded."""
    e = np.where(a.nonzero, 2 * a.e, ABSENT)
    top = e.max(axis=1, keepdims=True, initial=ABSENT)
    q = np.where(a.nonzero[..., None], rnd_up(rnd_up(a.m * a.m, 15), (top - e)[..., None]), 0)
    return Scaled(q.sum(axis=1, keepdims=True), np.where(top == ABSENT, EMPTY, top + 15))


def tanh_delta(phi: Phi, d: Scaled) -> tuple[Scaled, Scaled]:
    """tanh(z + d) - tanh(z), exponent of d, and the slope change P, unencoded (spec 5)."""
    moved = rnd_up(d.m * ratio(tanh_ratio(), d), 14)
    q = fix(Scaled(moved, d.e), 14, 16383)
    den = np.maximum(1, (1 << 14) + rnd_up(phi.h * q, 15))
    delta = Scaled(clip(trunc(rnd_up(phi.p1 * moved, 14) << 14, den), 32767), d.e)
    half = rnd_up(fix(delta, 15, 65535), 1)
    return delta, aligned_sum(fixed_times(-clip(phi.h + half, 32767), delta))


def sine_delta(phi: Phi, d: Scaled) -> tuple[Scaled, Scaled]:
    """sin(z + d) - sin(z) and the slope change P, both unencoded (spec 5)."""
    s = rnd_up(d.m * ratio(sine_ratio(), d), 14)
    c = rnd_up(rnd_up(d.m * d.m, 15) * ratio(cosine_ratio(), d), 14)
    half, g, there = rnd_up(phi.h, 1), phi.p1, d.nonzero
    delta = aligned_sum(Term(g * s, d.e - 14, there), Term(-half * c, 2 * d.e, there))
    slope = aligned_sum(Term(-half * s, d.e - 14, there), Term(-g * c, 2 * d.e, there))
    return delta, slope


def difference_tanh(sticky: Sticky, phi: Phi, plus: Scaled, minus: Scaled) -> Moved:
    """f(x +- d) - f(x) through tanh (spec 5, difference)."""
    up, down = (tanh_delta(phi, sticky.limit_step(d)) for d in (plus, minus))
    return Moved(up[0], down[0], up[1], down[1])


def difference_sine(sticky: Sticky, phi: Phi, plus: Scaled, minus: Scaled) -> Moved:
    """f(x +- d) - f(x) through sin (spec 5, difference)."""
    up, down = (sine_delta(phi, sticky.limit_step(d)) for d in (plus, minus))
    return Moved(sticky.encode(up[0], WIDE), sticky.encode(down[0], WIDE), up[1], down[1])


def odd_even_tanh(sticky: Sticky, phi: Phi, odd: Scaled, even: Scaled) -> Moved:
    """Odd and even parts through tanh (spec 5, odd-even, tanh)."""
    a, s = sticky.limit_step(odd), sticky.limit_step(even)
    v, _ = tanh_delta(phi, s)
    t = clip(phi.h + fix(v, 15, 65535), 32767)
    tanh_a = rnd_up(a.m * ratio(tanh_ratio(), a), 14)
    new = Scaled(_odd_tanh(t, Scaled(tanh_a, a.e)), a.e)
    even_new = aligned_sum(
        Term(v.m << 14, s.e - 14, s.nonzero), Term(-rnd_up(t * tanh_a, 15) * new.m, 2 * a.e, a.nonzero)
    )
    wide = sticky.encode(even_new, WIDE)
    change = fix(wide, 15, 65535)
    return Moved(
        odd=new,
        even=even_new,
        d=aligned_sum(fixed_times(-clip(phi.h + change, 32767), new)),
        n=aligned_sum(
            fixed_times(-clip(phi.h + rnd_up(change, 1), 32767), wide), Term(-new.m * new.m, 2 * a.e, a.nonzero)
        ),
    )


def _odd_tanh(t: Ints, a: Scaled) -> Ints:
    """A' = (1 - t^2) A / (1 - t^2 A^2), exponent of A = tanh(a) (spec 5)."""
    slope = rnd_up(BOUND - t * t, 16)
    both = rnd_up(t * fix(a, 14, 16383), 15)
    den = np.maximum(1, (1 << 14) - rnd_up(both * both, 14))
    return clip(trunc(rnd_up(slope * a.m, 14) << 14, den), 32767)


def odd_even_sine(sticky: Sticky, phi: Phi, odd: Scaled, even: Scaled) -> Moved:
    """Odd and even parts through sin (spec 5, odd-even, sine)."""
    a, s = sticky.limit_step(odd), sticky.limit_step(even)
    delta, slope = sine_delta(phi, s)
    v, p = sticky.encode(delta, WIDE), keep(slope)
    t = clip(phi.h + fix(v, 15, 65535), 32767)
    gt = clip(phi.p1 + fix(p, 14, 32767), 16384)
    tt = rnd_up(t, 1)
    sin_a = Scaled(rnd_up(a.m * ratio(sine_ratio(), a), 14), a.e)
    cos_a = rnd_up(rnd_up(a.m * a.m, 15) * ratio(cosine_ratio(), a), 14)
    return Moved(
        odd=aligned_sum(fixed_times(gt, sin_a)),
        even=aligned_sum(Term(v.m << 14, v.e - 14, v.nonzero), Term(-tt * cos_a, 2 * a.e, a.nonzero)),
        d=aligned_sum(fixed_times(-tt, sin_a)),
        n=aligned_sum(Term(p.m << 14, p.e - 14, s.nonzero), Term(-gt * cos_a, 2 * a.e, a.nonzero)),
    )


RULES: dict[tuple[Mode, Activation], Rule] = {
    ("jet", "tanh"): jet,
    ("jet", "sine"): jet,
    ("laplacian", "tanh"): laplacian,
    ("laplacian", "sine"): laplacian,
    ("laplacian-time", "tanh"): laplacian_time,
    ("laplacian-time", "sine"): laplacian_time,
    ("difference", "tanh"): difference_tanh,
    ("difference", "sine"): difference_sine,
    ("odd-even", "tanh"): odd_even_tanh,
    ("odd-even", "sine"): odd_even_sine,
}


def activate(mode: Mode, activation: Activation, sticky: Sticky, acc: Scaled) -> tuple[Scaled, Linearization]:
    """The activation of all streams (n, S, B): new streams, unencoded, and what backward needs (spec 5)."""
    pre = sticky.encode(acc, WIDE)
    phi = PHI[activation](pre if mode == "naive" else pre.at(slice(None), slice(0, 1)))
    base = Scaled(phi.h, np.full(phi.h.shape[:-1], -15, dtype=np.int64))
    if mode == "naive":
        return base, Linearization(phi.p1)
    moved = RULES[mode, activation](sticky, phi, *_directions(mode, pre))
    kept = Linearization(phi.p1, keep(moved.d), keep(moved.n))
    return _join(mode, base, moved.odd, moved.even), kept


def _directions(mode: Mode, streams: Scaled) -> tuple[Scaled, Scaled]:
    """The odd (plus) and the even (minus) streams, (n, K, B) and (n, K or 1, B)."""
    odd, even = odd_and_even(mode, streams.e.shape[1])
    return streams.at(slice(None), odd), streams.at(slice(None), even)


def _join(mode: Mode, base: Scaled, odd: Scaled, even: Scaled) -> Scaled:
    """Inverse of taking stream 0 and :func:`_directions`."""
    count, pairs, blocks = odd.e.shape
    streams = 1 + pairs + even.e.shape[1]
    m = np.empty((count, streams, blocks, LANES), dtype=np.int64)
    e = np.empty(m.shape[:-1], dtype=np.int64)
    for where, part in zip((slice(0, 1), *odd_and_even(mode, streams)), (base, odd, even), strict=True):
        m[:, where], e[:, where] = part.m, part.e
    return Scaled(m, e)


# -------------------------------------------------------------------------------------- 6 backward of phi


def transpose_activation(mode: Mode, kept: Linearization, cotangents: Scaled) -> Scaled:
    """The activation's transpose on encoded cotangents (n, S, B), unencoded (spec 6, step 3)."""
    if kept.odd is None or kept.even is None:
        return aligned_sum(fixed_times(kept.p1, cotangents))
    base = cotangents.at(slice(None), slice(0, 1))
    odd, even = _directions(mode, cotangents)
    slope_odd, slope_even = _slopes(mode, kept)
    own_odd, own_even = fixed_times(slope_odd, odd), fixed_times(slope_even, even)
    new_odd = aligned_sum(own_odd, *([] if mode == "difference" else [kept_times(kept.odd, even)]))
    if mode == "laplacian-time":
        new_odd = _but_last(new_odd, aligned_sum(own_odd))
    new_even = aligned_sum(own_even, *([kept_times(kept.odd, odd)] if mode == "odd-even" else []))
    new_base = aligned_sum(fixed_times(kept.p1, base), *_terms(kept.odd, odd), *_terms(kept.even, even))
    return _join(mode, new_base, new_odd, new_even)


def _but_last(most: Scaled, last: Scaled) -> Scaled:
    """Blocks (n, K, B) of the one, and of the other's last direction."""
    parts = most.at(slice(None), slice(0, -1)), last.at(slice(None), slice(-1, None))
    return Scaled(np.concatenate([p.m for p in parts], axis=1), np.concatenate([p.e for p in parts], axis=1))


def _slopes(mode: Mode, kept: Linearization) -> tuple[Ints, Ints]:
    """m1 of the odd (plus) and of the even (minus) streams (spec 6)."""
    assert kept.odd is not None and kept.even is not None
    if mode == "jet" or mode in SUMMED:
        return kept.p1, kept.p1
    odd, even = (clip(kept.p1 + fix(x, 14, 32767), 32767) for x in (kept.odd, kept.even))
    return (odd, even) if mode == "difference" else (even, even)


def _terms(kept: Scaled, c: Scaled) -> list[Term]:
    """What each further stream adds to stream 0 (spec 6)."""
    ones = [(slice(None), slice(k, k + 1)) for k in range(c.e.shape[1])]
    return [kept_times(kept.at(*one), c.at(*one)) for one in ones]


# ------------------------------------------------------------------------------------------- 7 gradients


class Accumulator:
    """Gradient sums of one tensor, blocks of any shape, with their peak (spec 7)."""

    def __init__(self, shape: tuple[int, ...], exponent: int, limit: int) -> None:
        self.sums: Ints = np.zeros(shape, dtype=np.int64)
        self.exponent, self.limit = exponent, limit
        self.peak = 0

    def add(self, x: Ints, e: Ints) -> None:
        """Add terms x (..., *shape) of exponents e that broadcast to x."""
        up = np.clip(e - self.exponent, 0, 30)  # 30 already takes every x != 0 to the largest peak
        term = rnd_up(x, self.exponent - e) << up
        self.peak |= int(np.bitwise_or.reduce(np.minimum(np.abs(term), BOUND), axis=None))
        lead = tuple(range(term.ndim - self.sums.ndim))
        self.sums += term.sum(axis=lead)

    @property
    def result(self) -> Ints:
        """The sums, or zeros if the step saturated."""
        return self.sums if self.peak <= 1 << self.limit else np.zeros_like(self.sums)


def outer_blocks(left: Scaled, right: Scaled) -> tuple[Ints, Ints]:
    """Block products left^T right of block rows (T, p) and (T, q): (T, p, q, 16) and (T, p, q, 1) (spec 7)."""
    a = left.m.reshape(*left.e.shape, 1, BLOCK, BLOCK).swapaxes(-1, -2)
    b = right.m.reshape(right.e.shape[0], 1, right.e.shape[1], BLOCK, BLOCK)
    both = a @ b
    exponents = left.e[:, :, None] + right.e[:, None, :]
    return both.reshape(*exponents.shape, LANES), exponents[..., None]


# --------------------------------------------------------------------------------------------- 8 TT cores


class Flat(NamedTuple):
    """A matrix of integers with one exponent (spec 8)."""

    values: Ints
    exponent: int


def flatten(x: Scaled, rows: int, cols: int) -> Flat:
    """The blocks of a rows x cols matrix at one exponent, padding dropped (spec 8); all EMPTY: zeros, exponent 0."""
    there = x.e != EMPTY
    top = int(x.e[there].max()) if there.any() else 0
    aligned = np.where(there[..., None], rnd_up(x.m, top - x.scale), 0)
    return Flat(from_blocks(aligned.reshape(*x.e.shape, BLOCK, BLOCK), rows, cols), top)


def block_product(a: SMX, b: SMX, transpose_a: bool = False, transpose_b: bool = False) -> Scaled:
    """:func:`product` as blocks (block rows, block cols, 16)."""
    m, e = product(a, b, transpose_a, transpose_b)
    return Scaled(m.reshape(*e.shape, LANES), e)


def chain_tails(chain: Chain, cores: Sequence[SMX], sticky: Sticky) -> list[SMX]:
    """F_2 .. F_d of a half-chain, SMX(16); empty for d = 1 (spec 8)."""
    tails = list(cores[-1:]) if len(cores) > 1 else []
    for k in range(len(cores) - 2, 0, -1):
        tails.insert(0, _contracted(chain, cores, tails[0], k, CORE_BITS, sticky))
    return tails


def _contracted(chain: Chain, cores: Sequence[SMX], tail: SMX, k: int, bits: int, sticky: Sticky) -> SMX:
    flat = flatten(block_product(cores[k], tail), cores[k].shape[0], tail.shape[1])
    return sticky.encode_matrix(flat.values.reshape(chain.ranks[k], -1), flat.exponent, bits)


def stage_matrix(chain: Chain, cores: Sequence[SMX], tails: Sequence[SMX], bits: int, sticky: Sticky) -> SMX:
    """The (r, N) stage matrix of a half-chain, SMX(bits) (spec 8)."""
    if tails:
        return _contracted(chain, cores, tails[0], 0, bits, sticky)
    return _smx(sticky.encode(operand(cores[0]), bits), cores[0].shape, bits)


def core_gradients(
    chain: Chain, cores: Sequence[SMX], tails: Sequence[SMX], sums: Scaled, sticky: Sticky
) -> list[Scaled]:
    """Gradients of the cores, unencoded, from the stage matrix's, blocks of one exponent (spec 8, backward)."""
    grads, df = [], sums
    tiles = sums.m.reshape(*sums.e.shape, BLOCK, BLOCK)
    flat = Flat(from_blocks(tiles, chain.ranks[0], chain.width), int(sums.e.flat[0]))
    for k, tail in enumerate(tails):
        columns = tail.shape[1]
        cut = sticky.encode_matrix(flat.values.reshape(-1, columns), flat.exponent, CORE_BITS)
        grads.append(block_product(cut, tail, transpose_b=True))
        df = block_product(cores[k], cut, transpose_a=True)
        flat = flatten(df, chain.ranks[k + 1], columns)
    return [*grads, df]


# --------------------------------------------------------------------------------------- 9 random numbers


Words = NDArray[np.uint64]
WORD = np.uint64(0xFFFFFFFF)
GOLDEN = np.uint64(0x9E3779B9)


def mix(x: Words) -> Words:
    """A 32-bit hash; uint64 because int64 cannot hold a product of two 32-bit words (spec 9)."""
    x = x ^ (x >> np.uint64(16))
    x = (x * np.uint64(0x7FEB352D)) & WORD
    x = x ^ (x >> np.uint64(15))
    x = (x * np.uint64(0x846CA68B)) & WORD
    return x ^ (x >> np.uint64(16))


def key(*counters: ArrayLike) -> Words:
    """The key of seed, step, stage, microbatch and stream, which broadcast against each other (spec 9)."""
    state: Words = np.zeros((), dtype=np.uint64)
    for counter in counters:
        state = mix(state ^ (np.asarray(counter).astype(np.uint64) & WORD))
    return state


def random_words(keys: Words, count: int) -> Ints:
    """``count`` 32-bit numbers a key, (..., count) (spec 9)."""
    steps = (np.arange(count, dtype=np.uint64) * GOLDEN) & WORD
    return mix((keys[..., None] + steps) & WORD).astype(np.int64)


# ---------------------------------------------------------------------------------------------- the device


@dataclass(frozen=True, eq=False)
class StageWeights:
    """What ``load`` makes of the tensors of one stage."""

    matrix: SMX
    cores: list[SMX]
    tails: list[SMX]
    bias: Scaled | None


class Tape(NamedTuple):
    """One pass: every stage's input (n, S, B), the linearization after it if it closes, and the output."""

    inputs: list[Scaled]
    kept: list[Linearization | None]
    output: Scaled


class Reference:
    """The oracle: a :class:`picopinn.device.base.Device` in NumPy. ``backward`` recomputes its forward pass."""

    def __init__(self) -> None:
        self._sticky = Sticky()
        self._program: Program | None = None
        self._weights: list[StageWeights] = []
        self._sums: dict[tuple[int, bool], Accumulator] = {}
        self._seed = self._step = 0

    def configure(self, program: Program, directions: int) -> None:
        """Prepare for a program; forgets everything else (spec 4)."""
        self._sticky = Sticky()
        self._program = program
        self._weights, self._sums = [], {}

    def load(self, weights: Rows) -> None:
        """Set all parameters and contract TT cores (spec 4, 8).

        Args:
            weights: mantissas (B, 16) and exponents (B,), the blocks of ``Program.tensors`` concatenated.

        Raises:
            UsageError: the number of blocks is not the program's, or nothing is configured.
        """
        tensors = self._ready().tensors
        total = sum(t.blocks for t in tensors)
        if len(weights.exponents) != total:
            raise UsageError(f"the program has {total} parameter blocks, got {len(weights.exponents)}")
        ends = np.cumsum([t.blocks for t in tensors])[:-1].tolist()
        parts = zip(np.split(weights.mantissas, ends), np.split(weights.exponents, ends), strict=True)
        blocks = [_parameter(t, m, e) for t, (m, e) in zip(tensors, parts, strict=True)]
        self._weights = [self._stage_weights(i, blocks) for i in range(len(self._ready().stages))]

    @property
    def weights(self) -> Sequence[StageWeights]:
        """What ``load`` made, stage by stage."""
        return self._weights

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        """Outputs of n microbatches (spec 4, 5).

        Args:
            points: (n, R, B) block rows with R = 1, or S in naive mode.
            directions: (K, B) block rows of four equal rows; None for K = 0 (unused in naive mode).
            keep: ignored, nothing is kept.

        Returns:
            int32 (n, S, out B, 16) and int16 (n, S, out B).

        Raises:
            UsageError: nothing is configured or loaded.
        """
        output = self._run(points, directions).output
        return Values(output.m.astype(np.int32), output.e.astype(np.int16))

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        """Clear gradients; set their exponents and the random counters of a step (spec 7, 9).

        Raises:
            UsageError: the number of exponents is not the number of accumulators.
        """
        shapes = self._accumulator_shapes()
        if len(scaling.exponents) != len(shapes):
            raise UsageError(f"the program has {len(shapes)} accumulators, got {len(scaling.exponents)} exponents")
        self._seed, self._step = seed, step
        self._sums = {
            name: Accumulator(shape, int(g), scaling.limit)
            for (name, shape), g in zip(shapes.items(), scaling.exponents, strict=True)
        }

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        """Accumulate gradients (spec 6, 7).

        Args:
            points, directions: as in :meth:`forward`.
            cotangents: SMX(g) block rows (n, S, out B).
            first: number of the first microbatch in the step.

        Raises:
            UsageError: nothing is configured or loaded, or ``begin`` was not called.
        """
        if not self._sums:
            raise UsageError("begin a step before backward")
        stages = self._ready().stages
        tape = self._run(points, directions)
        c = _scaled(cotangents.mantissas, cotangents.exponents)
        for i in range(len(stages) - 1, -1, -1):
            self._accumulate(i, c, tape.inputs[i])
            if i > 0:
                c = self._input_cotangent(i, c, tape.kept[i - 1], first)

    def gradients(self) -> Gradients:
        """The sums since ``begin``, contracted back to the cores, in SMX(16) (spec 7, 8).

        Raises:
            UsageError: ``begin`` was not called.
        """
        if not self._sums:
            raise UsageError("begin a step before asking for gradients")
        found: list[Scaled] = []
        for i, stage in enumerate(self._ready().stages):
            found += self._matrix_gradients(i, stage)
            if stage.closes:
                found.append(self._bias_gradient(i))
        m = np.concatenate([x.m.reshape(-1, LANES) for x in found])
        rows = self._sticky.encode(Scaled(m, np.concatenate([x.e.reshape(-1) for x in found])), WIDE)
        peaks = np.array([a.peak for a in self._sums.values()], dtype=np.uint32)
        return Gradients(Rows(rows.m.astype(np.int16), rows.e.astype(np.int8)), peaks)

    def flags(self) -> int:
        """Sticky OVERFLOW and STEP since the last call; clears them (spec 10)."""
        raised, self._sticky.value = self._sticky.value, 0
        return raised

    # -- parameters

    def _ready(self) -> Program:
        if self._program is None:
            raise UsageError("configure a program first")
        return self._program

    def _stage_weights(self, index: int, blocks: list[SMX]) -> StageWeights:
        program = self._ready()
        stage = program.stages[index]
        mine = [(t, b) for t, b in zip(program.tensors, blocks, strict=True) if t.stage == index]
        bias = next((operand(b) for t, b in mine if t.bias), None)
        cores = [b for t, b in mine if not t.bias]
        flat_bias = None if bias is None else bias.at(0)
        if stage.chain is None:
            return StageWeights(cores[0], cores, [], flat_bias)
        chain = program.chains[stage.chain]
        tails = chain_tails(chain, cores, self._sticky)
        matrix = stage_matrix(chain, cores, tails, program.precision.weights, self._sticky)
        return StageWeights(matrix, cores, tails, flat_bias)

    # -- forward

    def _run(self, points: Rows, directions: Rows | None) -> Tape:
        program = self._ready()
        if not self._weights:
            raise UsageError("load parameters first")
        x = self._input_streams(points, directions)
        widths = [program.precision.inputs] * x.e.shape[1]
        inputs: list[Scaled] = []
        kept: list[Linearization | None] = []
        for i in range(len(program.stages)):
            inputs.append(x)
            acc = self._with_bias(i, self._stage_product(i, x, widths, backward=False))
            widths = self._widths(x.e.shape[1])
            if i + 1 < len(program.stages):
                x, linear = self._next_input(i, acc, widths)
                kept.append(linear)
        return Tape(inputs, kept, acc)

    def _input_streams(self, points: Rows, directions: Rows | None) -> Scaled:
        x = _scaled(points.mantissas, points.exponents)
        if self._ready().mode == "naive" or directions is None:
            return x
        d = _scaled(directions.mantissas, directions.exponents)
        shape = (len(x.e), *d.e.shape)
        odd = Scaled(np.broadcast_to(d.m, (*shape, LANES)), np.broadcast_to(d.e, shape))
        if self._ready().mode == "difference":
            return _join("difference", x, odd, Scaled(-odd.m, odd.e))
        mode = self._ready().mode
        shape = (len(x.e), 1 if mode in SUMMED else len(d.e), d.e.shape[1])
        zero = Scaled(np.zeros((*shape, LANES), np.int64), np.full(shape, ZERO_EXPONENT))
        return _join(mode, x, odd, zero)

    def _widths(self, streams: int) -> list[int]:
        """Width of every stream between stages (spec 4)."""
        precision = self._ready().precision
        return [precision.base] + [precision.activations] * (streams - 1)

    def _stage_product(self, index: int, x: Scaled, widths: list[int], backward: bool) -> Scaled:
        """Every stream and panel of x (n, S, B) times the stage matrix, or its transpose going backward."""
        stage, matrix = self._ready().stages[index], self._weights[index].matrix
        b = operand(matrix, transpose=stage.expand == backward)
        inner, width = b.e.shape
        shift = np.array([headroom(p, matrix.bits, inner) for p in widths])[:, None, None]
        count, streams = x.e.shape[:2]
        panels = (count, streams, stage.panels, inner)
        y = row_product(Scaled(x.m.reshape(*panels, LANES), x.e.reshape(panels)), b, shift)
        whole = (count, streams, stage.panels * width)
        return Scaled(y.m.reshape(*whole, LANES), y.e.reshape(whole))

    def _with_bias(self, index: int, acc: Scaled) -> Scaled:
        bias = self._weights[index].bias
        if bias is None:
            return acc
        if self._ready().mode == "naive":
            return add_bias(acc, bias)
        base = add_bias(acc.at(slice(None), slice(0, 1)), bias)
        return _join(self._ready().mode, base, *_directions(self._ready().mode, acc))

    def _next_input(self, index: int, acc: Scaled, widths: list[int]) -> tuple[Scaled, Linearization | None]:
        program, linear = self._ready(), None
        if program.stages[index].closes:
            acc, linear = activate(program.mode, program.activation, self._sticky, acc)
        return self._sticky.encode(acc, np.array(widths)[:, None]), linear

    # -- backward

    def _input_cotangent(self, index: int, c: Scaled, kept: Linearization | None, first: int) -> Scaled:
        program = self._ready()
        bits = program.precision.gradients
        c = self._stage_product(index, c, [bits] * c.e.shape[1], backward=True)
        if kept is not None:
            c = transpose_activation(program.mode, kept, self._sticky.encode(c, WIDE))
        return self._sticky.encode(c, bits, self._random(index, first, c))

    def _random(self, index: int, first: int, c: Scaled) -> Ints:
        count, streams, blocks = c.e.shape
        microbatch = first + np.arange(count)[:, None]
        keys = key(self._seed, self._step, index, microbatch, np.arange(streams))
        return random_words(keys, blocks * LANES).reshape(c.m.shape)

    def _accumulate(self, index: int, c: Scaled, x: Scaled) -> None:
        stage = self._ready().stages[index]
        for one in range(len(c.e)):  # microbatch by microbatch: all at once is a lot of memory
            rows, cols = _panels(c.at(one), stage.panels), _panels(x.at(one), stage.panels)
            self._sums[index, False].add(*outer_blocks(*((cols, rows) if stage.expand else (rows, cols))))
        if stage.closes:
            used = c if self._ready().mode == "naive" else c.at(slice(None), slice(0, 1))
            column = used.m.reshape(-1, used.e.shape[-1], BLOCK, BLOCK).sum(axis=2)
            self._sums[index, True].add(column, used.e.reshape(column.shape[:2])[..., None])

    def _accumulator_shapes(self) -> dict[tuple[int, bool], tuple[int, ...]]:
        """(stage, is bias) of every accumulator, in order, and its shape."""
        shapes: dict[tuple[int, bool], tuple[int, ...]] = {}
        for i, stage in enumerate(self._ready().stages):
            shapes[i, False] = (blocks_of(stage.rows), blocks_of(stage.cols), LANES)
            if stage.closes:
                shapes[i, True] = (stage.out_blocks, BLOCK)
        return shapes

    def _matrix_gradients(self, index: int, stage: Stage) -> list[Scaled]:
        acc, weights = self._sums[index, False], self._weights[index]
        sums = Scaled(acc.result, np.full(acc.result.shape[:2], acc.exponent))
        if stage.chain is None:
            return [sums]
        return core_gradients(self._ready().chains[stage.chain], weights.cores, weights.tails, sums, self._sticky)

    def _bias_gradient(self, index: int) -> Scaled:
        acc = self._sums[index, True]
        blocks = np.zeros((len(acc.result), LANES), dtype=np.int64)
        blocks[:, :BLOCK] = acc.result
        return Scaled(blocks, np.full(len(blocks), acc.exponent))


def _parameter(tensor: Tensor, mantissas: NDArray[np.int16], exponents: NDArray[np.int8]) -> SMX:
    shape = (blocks_of(tensor.rows), blocks_of(tensor.cols))
    tiles = mantissas.reshape(*shape, BLOCK, BLOCK)
    return SMX(tiles, exponents.reshape(shape), (tensor.rows, tensor.cols), tensor.bits)


def _scaled(mantissas: NDArray[np.int16], exponents: NDArray[np.int8]) -> Scaled:
    return Scaled(mantissas.astype(np.int64), exponents.astype(np.int64))


def _panels(streams: Scaled, panels: int) -> Scaled:
    """Streams (S, panels * b) as block rows (S * panels, b)."""
    shape = (streams.e.shape[0] * panels, streams.e.shape[1] // panels)
    return Scaled(streams.m.reshape(*shape, LANES), streams.e.reshape(shape))
