"""The activation unit, bit by bit: tables, the streams' rules and their transpose (docs/spec.md, 5 and 6).

Streams of a microbatch are ``Scaled`` (n, S, B): stream 0 is the base, then an odd (plus) and an even (minus) one a
direction, or an odd one a direction and one even one for all. What comes in is encoded to 16 bits; what goes out is not
encoded yet, but for sine's finite steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .functional import EMPTY, SUM_LIMIT, Ints, Scaled, Term, aligned_sum, encode, fix, rounded
from .program import SUMMED

WIDE = 16  # mantissas around an activation
UNIT = 32767  # the largest number below one, 15 fraction bits
STEP_EXPONENT = -12  # of a finite step below 8 at 16 bits
BASE = (slice(None), slice(0, 1))
Place = tuple[slice, slice]


# ---- tables


def _table(values: np.ndarray, fraction: int) -> Ints:
    entries: Ints = np.minimum(UNIT, np.floor(np.ldexp(values, fraction) + 0.5)).astype(np.int64)
    return entries


_Y = np.arange(1, 513) / 64
TANH = _table(np.tanh(np.arange(1025) / 128), 15)
SINE = _table(np.sin(np.pi * np.arange(514) / 1024), 15)
TANH_RATIO = _table(np.append(1.0, np.tanh(_Y) / _Y), 14)  # tanh(y) / y
SINE_RATIO = _table(np.append(1.0, np.sin(_Y) / _Y), 14)  # sin(y) / y
COSINE_RATIO = _table(np.append(1.0, (np.sin(_Y / 2) / (_Y / 2)) ** 2), 14)  # (1 - cos y) / (y^2 / 2)


def interpolated(table: Ints, position: Ints, fraction: int) -> Ints:
    """The table at position / 2^fraction, linear between entries."""
    i, f = position >> fraction, position & ((1 << fraction) - 1)
    value: Ints = table[i] + rounded((table[i + 1] - table[i]) * f, fraction)
    return value


def times_ratio(x: Ints, table: Ints, d: Scaled) -> Ints:
    """x times an even function of the step d."""
    return rounded(x * interpolated(table, np.abs(fix(d, 22, (1 << 25) - 1)), 16), 14)


# ---- the function and its derivatives at stream 0


class Phi(NamedTuple):
    """phi(z) with 15 fraction bits, its first three derivatives with 14."""

    h: Ints
    p1: Ints
    p2: Ints
    p3: Ints


def tanh(z: Scaled) -> Phi:
    """From a table of [0, 8), the derivatives from the value."""
    up, limit = z.e[..., None] + 22, (1 << 25) - 1
    x = np.clip(np.where(up >= 0, z.x << np.clip(up, 0, 25), rounded(z.x, -up)), -limit, limit)
    h = np.sign(x) * interpolated(TANH, np.abs(x), 15)
    p1 = rounded(SUM_LIMIT - h * h, 16)
    p2 = rounded(-h * p1, 14)
    return Phi(h, p1, p2, rounded(-2 * p1 * p1 - h * p2, 14))


def sine(z: Scaled) -> Phi:
    """From a table of a quarter turn."""
    angle = _turns(z)
    h = _sine_of(angle)
    g = rounded(_sine_of((angle + (1 << 22)) & 0xFFFFFF), 1)
    return Phi(h, g, rounded(-h, 1), -g)


def _turns(z: Scaled) -> Ints:
    """z in 2^-24 turns, whole turns dropped."""
    u = 4 * (5215 * z.x) + rounded(z.x * 6199, 13)
    up = z.e[..., None] + 7
    down = np.clip(-up, 1, 32)
    right = np.where(down < 32, (u >> down) + ((u >> (down - 1)) & 1), 0)
    left = np.where(up < 24, u << np.clip(up, 0, 23), 0)
    return np.where(up >= 0, left, right) & 0xFFFFFF


def _sine_of(angle: Ints) -> Ints:
    quarter, v = angle >> 22, angle & 0x3FFFFF
    size = interpolated(SINE, np.where(quarter % 2 == 1, (1 << 22) - v, v), 13)
    return np.where(quarter >= 2, -size, size)


# ---- how directions move


class Moved(NamedTuple):
    """New odd (plus) and even (minus) streams and what backward needs of each, before it is kept."""

    odd: Scaled
    even: Scaled
    odd_slope: Scaled
    even_slope: Scaled


def _fixed(p: Ints, x: Scaled, fraction: int = 14) -> Term:
    """Fixed point with so many fraction bits times a block."""
    return Term(p * x.x, x.e - fraction, x.nonzero)


def _square(p: Ints, x: Scaled) -> Term:
    """A product whose second factor has the square's scale of block x."""
    return Term(p, 2 * x.e, x.nonzero)


def _wide(x: Scaled) -> Scaled:
    return Scaled(*encode(x.x, x.e, WIDE))


def _kept(x: Scaled) -> Scaled:
    """A sum at 16 bits and the exponent it has (spec 5)."""
    return Scaled(rounded(x.x, 15), np.where(x.e == EMPTY, EMPTY, x.e + 15))


def _limited(d: Scaled) -> Scaled:
    """A finite step, at most 8 (spec 5)."""
    over = d.e > STEP_EXPONENT
    large = np.clip(d.x << np.clip(d.e - STEP_EXPONENT, 0, 15)[..., None], -UNIT, UNIT)
    return Scaled(np.where(over[..., None], large, d.x), np.where(over, STEP_EXPONENT, d.e))


def _quotient(n: Ints, d: Ints) -> Ints:
    """n / d with 14 more bits towards zero, within 16 bits: a divider."""
    size: Ints = np.minimum((np.abs(n) << 14) // np.maximum(d, 1), UNIT)
    return np.sign(n) * size


def jet(phi: Phi, a: Scaled, s: Scaled) -> Moved:
    """First and second derivative along each direction."""
    q = rounded(a.x * a.x, 15)
    return Moved(
        aligned_sum(_fixed(phi.p1, a)),
        aligned_sum(_fixed(phi.p1, s), _square(phi.p2 * q, a)),
        aligned_sum(_fixed(phi.p2, a)),
        aligned_sum(_fixed(phi.p2, s), _square(phi.p3 * q, a)),
    )


def laplacian(phi: Phi, a: Scaled, s: Scaled, counted: int) -> Moved:
    """First derivatives along each direction, the sum of the second ones along the first few of them."""
    q = _wide(_squares(a[:, :counted])) if s.e.size else s
    return Moved(
        aligned_sum(_fixed(phi.p1, a)),
        aligned_sum(_fixed(phi.p1, s), _fixed(phi.p2, q, 15)),
        aligned_sum(_fixed(phi.p2, a)),
        aligned_sum(_fixed(phi.p2, s), _fixed(phi.p3, q, 15)),
    )


def _squares(a: Scaled) -> Scaled:
    """Of all directions, summed at the largest exponent."""
    count, _, blocks = a.e.shape
    sums = Scaled(np.zeros((count, 1, blocks, 16), dtype=np.int64), np.full((count, 1, blocks), EMPTY))
    for at in np.argwhere(a.nonzero.any(axis=1)):
        n, b = int(at[0]), int(at[1])
        there = np.flatnonzero(a.nonzero[n, :, b])
        x, e = a.x[n, there, b], 2 * a.e[n, there, b]
        sums.x[n, 0, b] = rounded(rounded(x * x, 15), (e.max() - e)[:, None]).sum(axis=0)
        sums.e[n, 0, b] = e.max() + 15
    return sums


def _tanh_step(phi: Phi, d: Scaled) -> tuple[Scaled, Scaled]:
    """tanh(z + d) - tanh(z) and the change of slope."""
    moved = times_ratio(d.x, TANH_RATIO, d)
    den = (1 << 14) + rounded(phi.h * fix(Scaled(moved, d.e), 14, 16383), 15)
    delta = Scaled(_quotient(rounded(phi.p1 * moved, 14), den), d.e)
    middle = np.clip(phi.h + rounded(fix(delta, 15, 65535), 1), -UNIT, UNIT)
    return delta, aligned_sum(_fixed(-middle, delta))


def _sine_step(phi: Phi, d: Scaled) -> tuple[Scaled, Scaled]:
    """sin(z + d) - sin(z) and the change of slope."""
    s, c = times_ratio(d.x, SINE_RATIO, d), times_ratio(rounded(d.x * d.x, 15), COSINE_RATIO, d)
    half, along = rounded(phi.h, 1), Scaled(s, d.e)
    delta = aligned_sum(_fixed(phi.p1, along), _square(-half * c, d))
    return _wide(delta), aligned_sum(_fixed(-half, along), _square(-phi.p1 * c, d))


def difference_tanh(phi: Phi, plus: Scaled, minus: Scaled) -> Moved:
    """f(x +- d) - f(x)."""
    (up, up_slope), (down, down_slope) = (_tanh_step(phi, _limited(d)) for d in (plus, minus))
    return Moved(up, down, up_slope, down_slope)


def difference_sine(phi: Phi, plus: Scaled, minus: Scaled) -> Moved:
    """f(x +- d) - f(x)."""
    (up, up_slope), (down, down_slope) = (_sine_step(phi, _limited(d)) for d in (plus, minus))
    return Moved(up, down, up_slope, down_slope)


def odd_even_tanh(phi: Phi, odd: Scaled, even: Scaled) -> Moved:
    """Odd and even parts of f(x +- d) - f(x), without cancellation."""
    a, s = _limited(odd), _limited(even)
    v, _ = _tanh_step(phi, s)
    t = np.clip(phi.h + fix(v, 15, 65535), -UNIT, UNIT)
    tanh_a = times_ratio(a.x, TANH_RATIO, a)
    product = rounded(t * fix(Scaled(tanh_a, a.e), 14, 16383), 15)
    den = (1 << 14) - rounded(product * product, 14)
    new = Scaled(_quotient(rounded(rounded(SUM_LIMIT - t * t, 16) * tanh_a, 14), den), a.e)
    moved = aligned_sum(_fixed(np.full_like(v.x, 1 << 14), v), _square(-rounded(t * tanh_a, 15) * new.x, a))
    wide = _wide(moved)
    change = fix(wide, 15, 65535)
    end, middle = (np.clip(phi.h + x, -UNIT, UNIT) for x in (change, rounded(change, 1)))
    n = aligned_sum(_fixed(-middle, wide), _square(-new.x * new.x, a))
    return Moved(new, moved, aligned_sum(_fixed(-end, new)), n)


def odd_even_sine(phi: Phi, odd: Scaled, even: Scaled) -> Moved:
    """Odd and even parts of f(x +- d) - f(x), without cancellation."""
    a, s = _limited(odd), _limited(even)
    v, slope = _sine_step(phi, s)
    p = _kept(slope)
    t = rounded(np.clip(phi.h + fix(v, 15, 65535), -UNIT, UNIT), 1)
    g = np.clip(phi.p1 + fix(p, 14, 32767), -(1 << 14), 1 << 14)
    sine_a = Scaled(times_ratio(a.x, SINE_RATIO, a), a.e)
    cosine_a = times_ratio(rounded(a.x * a.x, 15), COSINE_RATIO, a)
    even_new = aligned_sum(_fixed(np.full_like(v.x, 1 << 14), v), _square(-t * cosine_a, a))
    n = aligned_sum(Term(p.x << 14, p.e - 14, np.not_equal(p.e, EMPTY)), _square(-g * cosine_a, a))
    return Moved(aligned_sum(_fixed(g, sine_a)), even_new, aligned_sum(_fixed(-t, sine_a)), n)


PHI: dict[str, Callable[[Scaled], Phi]] = {"tanh": tanh, "sine": sine}
RULES: dict[tuple[str, str], Callable[[Phi, Scaled, Scaled], Moved]] = {
    ("jet", "tanh"): jet,
    ("jet", "sine"): jet,
    ("difference", "tanh"): difference_tanh,
    ("difference", "sine"): difference_sine,
    ("odd-even", "tanh"): odd_even_tanh,
    ("odd-even", "sine"): odd_even_sine,
}


# ---- forward and its transpose


@dataclass(frozen=True, eq=False)
class Linearization:
    """What backward needs: the slope of stream 0 (naive: of all), and kept D and N (P and P) a direction."""

    p1: Ints
    odd: Scaled | None = None
    even: Scaled | None = None


def places(mode: str, streams: int) -> tuple[Place, Place]:
    """Where the odd (plus) and the even (minus) streams lie."""
    if mode not in SUMMED:
        return (slice(None), slice(1, None, 2)), (slice(None), slice(2, None, 2))
    return (slice(None), slice(1, max(1, streams - 1))), (slice(None), slice(max(1, streams - 1), None))


def join(mode: str, base: Scaled, odd: Scaled, even: Scaled) -> Scaled:
    """Streams in their order."""
    count, directions, blocks = odd.e.shape
    shape = (count, 1 + directions + even.e.shape[1], blocks)
    whole = Scaled(np.zeros((*shape, 16), dtype=np.int64), np.zeros(shape, dtype=np.int64))
    for at, part in zip((BASE, *places(mode, shape[1])), (base, odd, even), strict=True):
        whole.x[at], whole.e[at] = part.x, part.e
    return whole


def forward(mode: str, activation: str, sums: Scaled) -> tuple[Scaled, Linearization]:
    """Streams before the activation to streams behind it, and what backward needs."""
    z = _wide(sums)
    phi = PHI[activation](z if mode == "naive" else z[BASE])
    base = Scaled(phi.h, np.full(phi.h.shape[:-1], -15))
    if mode == "naive":
        return base, Linearization(phi.p1)
    odd, even = (z[place] for place in places(mode, z.e.shape[1]))
    if mode in SUMMED:
        moved = laplacian(phi, odd, even, _counted(mode, odd))
    else:
        moved = RULES[mode, activation](phi, odd, even)
    kept = Linearization(phi.p1, _kept(moved.odd_slope), _kept(moved.even_slope))
    return join(mode, base, moved.odd, moved.even), kept


def _counted(mode: str, odd: Scaled) -> int:
    """How many directions the even part sums: all but time."""
    return int(odd.e.shape[1]) - (mode == "laplacian-time")


def backward(mode: str, kept: Linearization, sums: Scaled) -> Scaled:
    """Cotangents behind the activation to those before it."""
    c = _wide(sums)
    if kept.odd is None or kept.even is None:
        return aligned_sum(_fixed(kept.p1, c))
    base, (odd, even) = c[BASE], (c[place] for place in places(mode, c.e.shape[1]))
    d, n = kept.odd, kept.even
    base_terms = [_fixed(kept.p1, base)]
    for slopes, streams in ((d, odd), (n, even)):
        for k in range(streams.e.shape[1]):
            one = (slice(None), slice(k, k + 1))
            base_terms.append(_times(slopes[one], streams[one]))
    if mode in SUMMED:
        return join(
            mode, aligned_sum(*base_terms), _odd_of_sum(mode, kept, odd, even), aligned_sum(_fixed(kept.p1, even))
        )
    slopes_of = [np.clip(kept.p1 + fix(x, 14, 32767), -32767, 32767) for x in (d, n)]
    m_odd, m_even = {"jet": [kept.p1] * 2, "odd-even": [slopes_of[1]] * 2, "difference": slopes_of}[mode]
    odd_terms, even_terms = [_fixed(m_odd, odd)], [_fixed(m_even, even)]
    if mode != "difference":
        odd_terms.append(_times(d, even))
    if mode == "odd-even":
        even_terms.append(_times(d, odd))
    return join(mode, aligned_sum(*base_terms), aligned_sum(*odd_terms), aligned_sum(*even_terms))


def _odd_of_sum(mode: str, kept: Linearization, odd: Scaled, even: Scaled) -> Scaled:
    """Cotangents of directions that share an even part, and of time, which has none in it."""
    assert kept.odd is not None
    found = Scaled(np.zeros_like(odd.x), np.zeros_like(odd.e))
    for k in range(odd.e.shape[1]):
        one = (slice(None), slice(k, k + 1))
        terms = [_fixed(kept.p1, odd[one])]
        if k < _counted(mode, odd):
            terms.append(_times(kept.odd[one], even))
        sums = aligned_sum(*terms)
        found.x[one], found.e[one] = sums.x, sums.e
    return found


def _times(kept: Scaled, x: Scaled) -> Term:
    return Term(kept.x * x.x, kept.e + x.e, np.not_equal(kept.e, EMPTY) & x.nonzero)
