"""Products, encoding and activations in C, each alone, against the oracle and against real arithmetic.

What test_device.py proves of whole networks, here in small and at the ends of the ranges, so that a failure names the
function; and the promises of docs/spec.md about errors, which comparing two integer programs cannot show.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from numpy.typing import NDArray

from picopinn import kernels, smx
from picopinn.device.base import OVERFLOW
from picopinn.errors import UsageError
from picopinn.network import ACTIVATIONS, Activation, Chain, Network, Precision, Stage
from picopinn.reference import EMPTY, PHI, encode_int, headroom, operand
from picopinn.reference import product as oracle_product
from picopinn.smx import SMX

VARIANTS = kernels.variants()
STYLES = ("plain", "full", "zero", "huge", "spread", "edge")
WIDTHS = st.integers(4, 16)
SIZES = st.integers(1, 6)
SIDES = st.integers(1, 18)  # groups of every width, and rows that fill none
TURNS = [pytest.param(a, b, id="".join("nt"[x] for x in (a, b))) for a, b in product([False, True], repeat=2)]


def matrix(seed: int, rows: int, cols: int, bits: int, style: str) -> SMX:
    """``rows`` x ``cols`` blocks."""
    made = blocks(np.random.RandomState(seed), (rows, cols), bits, style)
    return SMX(made.mantissas.reshape(rows, cols, 4, 4), made.exponents, (4 * rows, 4 * cols), bits)


def assert_product_is_the_oracles(a: SMX, b: SMX, turn_a: bool = False, turn_b: bool = False) -> None:
    mantissas, exponents = oracle_product(a, b, turn_a, turn_b)
    assert np.abs(mantissas).max() <= 1 << 30
    for variant in VARIANTS:
        c = kernels.matmul(a, b, transpose_a=turn_a, transpose_b=turn_b, variant=variant)
        np.testing.assert_array_equal(c.exponents, exponents, variant)
        np.testing.assert_array_equal(c.blocks, mantissas, variant)


# ---- products


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.tuples(SIDES, SIZES, SIDES),
    st.tuples(WIDTHS, WIDTHS),
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(st.sampled_from(STYLES), st.sampled_from(STYLES)),
    st.integers(0, 1 << 20),
)
def test_matmul_equals_the_oracle(
    sizes: tuple[int, int, int],
    bits: tuple[int, int],
    turns: tuple[bool, bool],
    styles: tuple[str, str],
    seed: int,
) -> None:
    rows, inner, cols = sizes
    a = matrix(seed, *((inner, rows) if turns[0] else (rows, inner)), bits[0], styles[0])
    b = matrix(seed + 1, *((cols, inner) if turns[1] else (inner, cols)), bits[1], styles[1])
    assert_product_is_the_oracles(a, b, *turns)


@pytest.mark.parametrize("p", range(4, 17))
@pytest.mark.parametrize("q", range(4, 17))
def test_matmul_of_any_two_widths(p: int, q: int) -> None:
    """Largest mantissas everywhere: the sums come as near to 2^30 as the headroom lets them."""
    for inner in (1, 7):
        assert_product_is_the_oracles(matrix(p, 2, inner, p, "full"), matrix(q, inner, 2, q, "full"))


@pytest.mark.parametrize(("turn_a", "turn_b"), TURNS)
@pytest.mark.parametrize("style", ["plain", "full", "spread", "huge"])
@pytest.mark.parametrize("bits", [(4, 4), (8, 8), (8, 12), (15, 15), (16, 15), (16, 16)])
@pytest.mark.parametrize("inner", [256, 1024])
def test_long_sums(inner: int, bits: tuple[int, int], style: str, turn_a: bool, turn_b: bool) -> None:
    """K = 1024, and 4096, the most there may be."""
    a = matrix(1, *((inner, 1) if turn_a else (1, inner)), bits[0], style)
    b = matrix(2, *((1, inner) if turn_b else (inner, 1)), bits[1], style)
    assert_product_is_the_oracles(a, b, turn_a, turn_b)


@pytest.mark.parametrize(("turn_a", "turn_b"), TURNS)
@pytest.mark.parametrize("style", ["plain", "full", "spread", "huge"])
@pytest.mark.parametrize(
    ("inner", "cols", "bits"), [(17, 15, 8), (33, 16, 8), (33, 16, 15), (64, 17, 8), (1024, 23, 8)]
)
def test_wide_right_sides(inner: int, cols: int, bits: int, style: str, turn_a: bool, turn_b: bool) -> None:
    """Inner blocks that do and do not fill the last chunk; more columns than stay near at once; the widest packed."""
    a = matrix(1, *((inner, 3) if turn_a else (3, inner)), bits, style)
    b = matrix(2, *((cols, inner) if turn_b else (inner, cols)), bits, style)
    assert_product_is_the_oracles(a, b, turn_a, turn_b)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_packed_side_serves_many_products(variant: str, threads: int) -> None:
    b = matrix(0, 5, 11, 15, "plain")
    packed = kernels.Packed(b, transpose_b=True, threads=threads, variant=variant)
    out = kernels.matmul(matrix(1, 2, 5, 8, "plain"), kernels.Packed(b, variant=variant))
    for bits in (4, 15, 16):  # with 16 more than a packed product takes
        a = matrix(bits, 2, 11, bits, "plain")
        expected, exponents = oracle_product(a, b, False, True)
        found = kernels.matmul(a, packed)
        assert kernels.matmul(a, packed, out=found) is found
        np.testing.assert_array_equal(found.blocks, expected)
        np.testing.assert_array_equal(found.exponents, exponents)
    with pytest.raises(UsageError, match="the product is 8 x 20, out is 8 x 44"):
        kernels.matmul(a, packed, out=out)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("apart", range(26, 34))
def test_a_sum_of_two_to_the_thirty_is_rounded_by_the_formula(sign: int, apart: int) -> None:
    """4 x 2^14 x 2^14 in products of 64 bits, far below another term: half of 2^31 rounds up (spec 3)."""
    some = np.full((4, 4), 1 << 14, np.int16)
    exponents = np.array([0, -apart], np.int8)
    a = SMX(np.stack([some, some])[None], exponents[None], (4, 8), 16)
    b = SMX(np.stack([some, sign * some])[:, None], np.zeros((2, 1), np.int8), (8, 4), 16)
    assert_product_is_the_oracles(a, b)


@pytest.mark.parametrize("bits", [(4, 16), (8, 8), (16, 16)])
def test_one_sign_everywhere(bits: tuple[int, int]) -> None:
    """No cancellation: every term of every sum is the largest one."""
    for signs in product([1, -1], repeat=2):
        a, b = (
            SMX(
                np.full((1, 256, 4, 4), sign * smx.largest(width), np.int16),
                np.zeros((1, 256), np.int8),
                (4, 1024),
                width,
            )
            for sign, width in zip(signs, bits, strict=True)
        )
        assert_product_is_the_oracles(a, b, False, True)


@settings(derandomize=True, deadline=None)
@given(st.tuples(WIDTHS, WIDTHS), st.integers(1, 40), st.integers(0, 1 << 20))
def test_matmul_is_matrix_multiplication(bits: tuple[int, int], inner: int, seed: int) -> None:
    """Within the rounding of its alignment: half a unit of the result for every inner block (spec 3)."""
    rng = np.random.default_rng(seed)
    a = smx.encode(rng.normal(size=(5, inner)), bits[0])
    b = smx.encode(rng.normal(size=(inner, 6)), bits[1])
    unit = np.kron(np.ldexp(1.0, kernels.matmul(a, b).exponents.astype(int)), np.ones((4, 4)))[:5, :6]
    error = np.abs(kernels.matmul(a, b).decode() - a.decode() @ b.decode())
    assert (error <= unit * (-(-inner // 4)) / 2).all()


def test_matmul_of_small_integers_is_exact() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-100, 100, (9, 10)), rng.integers(-100, 100, (10, 7))
    a[::4, ::4] = b[::4, ::4] = 100  # every block at the same exponent
    c = kernels.matmul(smx.encode(a, 8), smx.encode(b, 8))
    np.testing.assert_array_equal(c.decode(), a @ b)
    assert c.shape == (9, 7)
    np.testing.assert_array_equal(c.encode(16).decode(), smx.snap(a @ b, 16))


def test_products_of_zero_blocks_are_empty() -> None:
    c = kernels.matmul(smx.encode(np.zeros((4, 8)), 8), smx.encode(np.ones((8, 4)), 8))
    assert not c.blocks.any()
    assert (c.exponents == EMPTY).all()
    assert not c.decode().any()


def test_headroom_is_the_least_that_holds() -> None:
    for p, q, inner in product(range(4, 17), range(4, 17), (1, 2, 3, 64, 1000, 1024)):
        h, term = headroom(p, q, inner), 4 * smx.largest(p) * smx.largest(q)
        assert inner * ((term >> h) + 1) <= 1 << 30
        assert h == 0 or inner * ((term >> (h - 1)) + 1) > 1 << 30


def test_matmul_refuses() -> None:
    a = smx.encode(np.ones((4, 8)), 8)
    with pytest.raises(UsageError, match="matmul: inner sizes differ, 8 x 4 times 8 x 4"):
        kernels.matmul(a, a, transpose_a=True, transpose_b=True)


# ---- encoding integers


def assert_encoded_as_the_oracle(x: NDArray[np.int64], exponents: NDArray[np.int64], bits: int) -> int:
    m, e, overflow = encode_int(x, exponents, bits)
    flags = 0
    for variant in VARIANTS:
        mantissas, found = np.empty(x.shape, np.int16), np.empty(exponents.shape, np.int8)
        given = x.astype(np.int32), exponents.astype(np.int16)
        flags = kernels.encode_integers(*given, bits, mantissas, found, variant)
        np.testing.assert_array_equal(mantissas, m)
        np.testing.assert_array_equal(found, e)
        assert flags == (OVERFLOW if overflow.any() else 0)
    return flags


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(0, 1 << 20), st.integers(0, 31), st.integers(-450, 450), WIDTHS)
def test_encode_equals_the_oracle(seed: int, length: int, exponent: int, bits: int) -> None:
    rng = np.random.RandomState(seed)
    limit = max(1, 1 << length) - 1
    x = rng.randint(-limit, limit + 1, (9, 16), dtype=np.int64) >> rng.randint(0, 32, (9, 1))
    assert_encoded_as_the_oracle(x, exponent + rng.randint(-2, 3, 9), bits)


@pytest.mark.parametrize("bits", range(4, 17))
def test_encode_at_the_ends(bits: int) -> None:
    ends = [0, 1, 2, (1 << 31) - 1, (1 << 31) - 2, (1 << 30) + 1, 1 << 30, (1 << 30) - 1]
    ends += [smx.largest(bits) + d for d in (-1, 0, 1)]
    x = np.array([[sign * value] + [0] * 15 for value in ends for sign in (1, -1)])
    for exponent in (-400, -159, -158, -157, -144, -143, -128, -127, -126, -1, 0, 96, 97, 98, 112, 127, 128, 400):
        assert_encoded_as_the_oracle(x, np.full(len(x), exponent), bits)


@pytest.mark.parametrize(
    ("top", "exponent", "flag"), [(64, 127, 0), (127, 127, 0), (64, 128, 1), (128, 127, 1), (0, 400, 0)]
)
def test_overflow_is_flagged(top: int, exponent: int, flag: int) -> None:
    x = np.array([[-top] + [0] * 14 + [top // 64]], np.int64)
    assert assert_encoded_as_the_oracle(x, np.array([exponent]), 8) == flag * OVERFLOW


def test_product_encode_refuses_widths() -> None:
    c = kernels.matmul(*[smx.encode(np.ones((4, 4)), 8)] * 2)
    with pytest.raises(UsageError, match="width 3 is out of range"):
        c.encode(3)


# ---- activations


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("style", STYLES)
def test_activations_equal_the_oracle(activation: Activation, variant: str, style: str) -> None:
    for scale in (-200, -30, -20, -8, -3, 0, 2, 4, 7, 20, 40):
        made = blocks(np.random.RandomState(scale + 200), (5, 20), 16, style, scale)
        z = SMX(made.mantissas.reshape(5, 20, 4, 4), made.exponents, (20, 80), 16)
        phi = PHI[activation](operand(z))
        value, slope = kernels.activate(z, activation, variant)
        np.testing.assert_array_equal(value.reshape(5, 20, 16), phi.h)
        np.testing.assert_array_equal(slope.reshape(5, 20, 16), phi.p1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_equal_the_oracle_at_every_exponent(activation: Activation) -> None:
    made = blocks(np.random.RandomState(5), (2, 255), 16, "full")
    z = SMX(made.mantissas.reshape(2, 255, 4, 4), np.tile(np.arange(-127, 128, dtype=np.int8), (2, 1)), (8, 1020), 16)
    z.blocks[1] >>= 7
    z.exponents[~z.blocks.any(axis=(2, 3))] = smx.ZERO_EXPONENT
    phi = PHI[activation](operand(z))
    for variant in VARIANTS:
        value, slope = kernels.activate(z, activation, variant)
        np.testing.assert_array_equal(value.reshape(2, 255, 16), phi.h)
        np.testing.assert_array_equal(slope.reshape(2, 255, 16), phi.p1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_keep_the_bounds_of_the_specification(activation: Activation) -> None:
    """|h - phi| <= 1.5 2^-15 and |p1 - phi'| <= 4 2^-14 for |z| < 16, z exact (spec 5)."""
    rng = np.random.RandomState(11)
    mantissas = rng.randint(-32767, 32768, (200, 16)).astype(np.int16)
    exponents = (-11 - rng.randint(0, 15, 200)).astype(np.int8)
    z = SMX(mantissas.reshape(1, 200, 4, 4), exponents.reshape(1, 200), (4, 800), 16)
    value, slope = kernels.activate(z, activation)
    reals = [mpf(int(m)) * mpf(2) ** int(e) for row, e in zip(mantissas, exponents, strict=True) for m in row]
    if activation == "tanh":
        expected = [(mp.tanh(x), 1 - mp.tanh(x) ** 2) for x in reals]
    else:
        expected = [(mp.sin(x), mp.cos(x)) for x in reals]
    for h, p1, (phi, derivative) in zip(value.flat, slope.flat, expected, strict=True):
        assert abs(int(h) / mpf(2**15) - phi) <= mpf(1.5) / 2**15
        assert abs(int(p1) / mpf(2**14) - derivative) <= mpf(4) / 2**14


# ---- plans


GOOD = Network(2, hidden=16, tt=(4, 4)).program(Precision(), "jet")
WRONG: dict[str, dict[str, Any]] = {
    "stages do not fit each other": {"stages": GOOD.stages[::-1]},
    "a size is 0 or too large": {"stages": (Stage(4, 4097),)},
    "a half-chain does not multiply out": {"chains": [Chain((4, 5), (8, 8, 1))] * len(GOOD.chains)},
    "a mantissa width is outside": {"precision": SimpleNamespace(**{**vars(GOOD.precision), "gradients": 17})},
    "there is no stage": {"stages": ()},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_plan_says_what_is_wrong(message: str) -> None:
    kernels.Plan(GOOD, 1)
    with pytest.raises(UsageError, match=f"the kernels refuse this: .*{message}"):
        kernels.Plan(replace(GOOD, **WRONG[message]), 1)


def test_a_plan_for_too_many_directions_is_refused() -> None:
    with pytest.raises(UsageError, match="the kernels refuse this: more than 4095 directions"):
        kernels.Plan(GOOD, 4096)


def test_device_bytes_add_up() -> None:
    few, many = kernels.device_bytes(GOOD, 0), kernels.device_bytes(GOOD, 8)
    for sizes in (few, many):
        assert sizes["total"] == sum(sizes[name] for name in ("weights", "gradients", "tape", "scratch"))
    assert few["weights"] == many["weights"]
    assert few["tape"] < many["tape"]
