"""SMX encoding on the host: the rule of the public MX emulator, and what follows from it.

Weights, points and cotangents all pass through here before a device sees them; a wrong tie or clip would make every
comparison with published MX numbers worthless.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from picopinn import kernels, smx
from picopinn.errors import UsageError

Floats = NDArray[np.float64]

WIDTHS = st.integers(4, 16)
NUMBERS = st.one_of(
    st.floats(-8, 8, width=32).map(lambda x: x if abs(x) > 1e-20 else 0.0),
    st.integers(-(1 << 20), 1 << 20).map(lambda k: k / 512),  # ties
    st.builds(math.ldexp, st.integers(-(1 << 16), 1 << 16), st.integers(-70, 70)),  # far apart
)
MATRICES = arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=NUMBERS)
EVERYTHING = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)


def mx_emulator(matrix: Floats, bits: int) -> Floats:
    """What ``microxcaling`` makes of a matrix: element format int<bits>, block 4 over both axes, rounding 'nearest'.

    Written from its rule, in its order and in plain floats: shared_exp = floor(log2(max |X|)); X / 2^shared_exp in
    fixed point with bits - 2 fraction bits, sign * floor(|.| + 1/2); clipped to +-(2^(bits-1) - 1) / 2^(bits-2).
    """
    out = np.zeros_like(matrix)
    one = 2.0 ** (bits - 2)
    largest = (2.0 ** (bits - 1) - 1) / one
    for top in range(0, matrix.shape[0], 4):
        for left in range(0, matrix.shape[1], 4):
            tile = matrix[top : top + 4, left : left + 4]
            peak = max(abs(float(x)) for x in tile.flat)
            if peak == 0:
                continue
            scale = 2.0 ** (math.frexp(peak)[1] - 1)  # floor(log2(peak)), exactly
            for (i, j), x in np.ndenumerate(tile):
                size = min(math.floor(abs(x) / scale * one + 0.5) / one, largest)
                out[top + i, left + j] = math.copysign(size, x) * scale
    return out


@settings(derandomize=True, deadline=None, max_examples=300)
@given(MATRICES, st.one_of(st.just(8), WIDTHS))
def test_encode_is_the_emulators_rule(matrix: Floats, bits: int) -> None:
    np.testing.assert_array_equal(smx.encode(matrix, bits).decode(), mx_emulator(matrix, bits))


@pytest.mark.parametrize("bits", range(4, 17))
def test_encode_is_the_emulators_rule_on_common_numbers(bits: int) -> None:
    matrix = np.random.default_rng(bits).normal(size=(66, 50)) * np.exp2(np.arange(50))
    np.testing.assert_array_equal(smx.encode(matrix, bits).decode(), mx_emulator(matrix, bits))


def test_ties_go_away_from_zero_and_large_ones_are_clipped() -> None:
    block = smx.encode([[64.0, 1.5, 2.5, -1.5], [-2.5, 0.5, -0.5, 0.49]], 8)
    assert block.mantissas.tolist() == [[64, 2, 3, -2], [-3, 1, -1, 0]]
    assert smx.encode([[127.9, -127.5]], 8).mantissas.tolist() == [[127, -127]]
    assert smx.encode([[128.0]], 8).mantissas.tolist() == [[64]]
    assert smx.encode([[64.0, np.nextafter(0.5, 0)]], 8).mantissas.tolist() == [[64, 0]]


@settings(derandomize=True, deadline=None)
@given(EVERYTHING, WIDTHS)
def test_encode_is_idempotent_over_all_floats(matrix: Floats, bits: int) -> None:
    once = smx.encode(matrix, bits)
    again = smx.encode(once.decode(), bits)
    np.testing.assert_array_equal(again.blocks, once.blocks)
    np.testing.assert_array_equal(again.exponents, once.exponents)
    np.testing.assert_array_equal(smx.snap(matrix, bits), once.decode())


@settings(derandomize=True, deadline=None)
@given(EVERYTHING, WIDTHS)
def test_a_block_is_well_formed(matrix: Floats, bits: int) -> None:
    made = smx.encode(matrix, bits)
    assert made.blocks.dtype == np.int16
    assert made.exponents.dtype == np.int8
    assert np.abs(made.blocks.astype(int)).max() <= smx.largest(bits)
    zero = ~made.blocks.any(axis=(2, 3))
    np.testing.assert_array_equal(made.exponents == smx.ZERO_EXPONENT, zero)


@settings(derandomize=True, deadline=None)
@given(EVERYTHING, WIDTHS)
def test_transposing_commutes(matrix: Floats, bits: int) -> None:
    """Why a transposed operand needs no blocks of its own: the 16 numbers of a tile share an exponent either way."""
    straight, turned = smx.encode(matrix, bits), smx.encode(matrix.T, bits)
    np.testing.assert_array_equal(turned.mantissas, straight.mantissas.T)
    np.testing.assert_array_equal(turned.exponents, straight.exponents.T)


@settings(derandomize=True, deadline=None)
@given(MATRICES, WIDTHS, st.integers(-30, 30))
def test_scaling_by_powers_of_two_commutes(matrix: Floats, bits: int, power: int) -> None:
    plain, scaled = smx.encode(matrix, bits), smx.encode(np.ldexp(matrix, power), bits)
    there = plain.exponents != smx.ZERO_EXPONENT
    np.testing.assert_array_equal(scaled.blocks, plain.blocks)
    np.testing.assert_array_equal(scaled.exponents[there], plain.exponents[there] + power)


@settings(derandomize=True, deadline=None)
@given(MATRICES, WIDTHS)
def test_negating_commutes(matrix: Floats, bits: int) -> None:
    plain, negative = smx.encode(matrix, bits), smx.encode(-matrix, bits)
    np.testing.assert_array_equal(negative.blocks, -plain.blocks)
    np.testing.assert_array_equal(negative.exponents, plain.exponents)


@settings(derandomize=True, deadline=None)
@given(MATRICES, WIDTHS)
def test_errors_are_half_a_step_or_one_where_clipped(matrix: Floats, bits: int) -> None:
    made = smx.encode(matrix, bits)
    step = np.kron(np.ldexp(1.0, made.exponents.astype(int)), np.ones((4, 4)))[: matrix.shape[0], : matrix.shape[1]]
    clipped = np.abs(matrix) > (smx.largest(bits) + 0.5) * step
    error = np.abs(made.decode() - matrix)
    assert (error <= np.where(clipped, step, step / 2)).all()


@settings(derandomize=True, deadline=None)
@given(MATRICES, WIDTHS)
def test_decode_is_exact(matrix: Floats, bits: int) -> None:
    made = smx.encode(matrix, bits)
    for (i, j), value in np.ndenumerate(made.decode()):
        assert value == math.ldexp(int(made.mantissas[i, j]), int(made.exponents[i // 4, j // 4]))


@pytest.mark.parametrize(
    ("value", "mantissa", "exponent"),
    [
        (2.0**133, 64, 127),
        (2.0**134, 127, 127),  # past the largest: as large as can be
        (1e300, 127, 127),
        (-1e300, -127, 127),
        (2.0**-121, 64, -127),
        (2.0**-127, 1, -127),
        (2.0**-128, 1, -127),
        (2.0**-129, 0, -128),
        (5e-324, 0, -128),
        (0.0, 0, -128),
    ],
)
def test_ends_of_the_exponents(value: float, mantissa: int, exponent: int) -> None:
    made = smx.encode([[value]], 8)
    assert (made.mantissas[0, 0], made.exponents[0, 0]) == (mantissa, exponent)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (4, 4), (5, 3), (3, 5), (8, 9), (0, 3), (3, 0)])
def test_edges_are_padded_with_zeros(rows: int, cols: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(rows, cols))
    made = smx.encode(matrix, 16)
    high, wide = -(-rows // 4), -(-cols // 4)
    assert made.blocks.shape == (high, wide, 4, 4)
    assert made.exponents.shape == (high, wide)
    assert made.shape == made.mantissas.shape == made.decode().shape == (rows, cols)
    whole = made.blocks.transpose(0, 2, 1, 3).reshape(4 * high, 4 * wide)
    assert not whole[rows:].any()
    assert not whole[:, cols:].any()
    np.testing.assert_allclose(made.decode(), matrix, atol=2.0**-13)


@pytest.mark.parametrize(("bits", "size"), [(4, 17), (8, 17), (9, 33), (16, 33)])
def test_nbytes(bits: int, size: int) -> None:
    assert smx.encode(np.ones((4, 8)), bits).nbytes == 2 * size


@pytest.mark.parametrize("bits", [-1, 0, 3, 17, 64])
def test_width_out_of_range(bits: int) -> None:
    with pytest.raises(UsageError, match=f"width {bits} is out of range: SMX mantissas have 4 to 16 bits"):
        smx.encode(np.ones((4, 4)), bits)


@pytest.mark.parametrize("array", [1.0, [1.0, 2.0], [[[1.0]]]])
def test_not_a_matrix(array: object) -> None:
    with pytest.raises(UsageError, match="SMX encodes matrices, got an array of shape"):
        smx.encode(array, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_says_where(bad: float) -> None:
    matrix = np.ones((5, 7))
    matrix[4, 6] = matrix[3, 5] = bad
    with pytest.raises(UsageError, match=f"found {bad} at row 3, column 5"):
        smx.encode(matrix, 8)


BLOCKS = arrays.arrays(
    np.float64,
    st.tuples(st.integers(0, 5), st.just(16)),
    elements=st.one_of(NUMBERS, st.floats(allow_nan=False, allow_infinity=False)),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(BLOCKS, st.data())
def test_the_hosts_c_encodes_to_the_same_bits(blocks: Floats, data: st.DataObject) -> None:
    """Training encodes through ``kernels.Pattern``; ``smx.encode_blocks`` is the definition."""
    widths = data.draw(arrays.arrays(np.uint8, len(blocks), elements=WIDTHS))
    with np.errstate(over="ignore"):  # 1e308 saturates in both
        mantissas, exponents = smx.encode_blocks(blocks, widths)
    found = kernels.Pattern(np.arange(blocks.size).reshape(blocks.shape), widths).gather(blocks)
    np.testing.assert_array_equal(found[0], mantissas)
    np.testing.assert_array_equal(found[1], exponents)


def test_the_hosts_c_gathers_what_it_scatters() -> None:
    """Every element travels in the lane that names it, at its block's width; the other lanes are zero."""
    rng = np.random.default_rng(0)
    reals, widths = rng.normal(size=40), np.array([4, 8, 16, 16], np.uint8)
    lanes = rng.permutation(64)
    index = np.where(lanes < reals.size, lanes, -1).reshape(4, 16)
    pattern, held = kernels.Pattern(index, widths), np.empty(reals.size)
    mantissas, exponents = pattern.gather(reals, held)
    expected = smx.encode_blocks(np.where(index >= 0, reals[index], 0.0), widths)
    np.testing.assert_array_equal(mantissas, expected[0])
    np.testing.assert_array_equal(exponents, expected[1])
    back = pattern.scatter(mantissas, exponents, np.empty(reals.size))
    np.testing.assert_array_equal(held, back)
    np.testing.assert_array_equal(back[index[index >= 0]], smx.decode_blocks(*expected)[index >= 0])


def test_the_hosts_c_decodes_the_first_column() -> None:
    """Four points a row of blocks, a stream each; exponents below those of float32 and wide mantissas."""
    rng = np.random.default_rng(0)
    mantissas = rng.integers(-(2**31) + 1, 2**31, (3, 5, 2, 16), dtype=np.int32)
    exponents = rng.integers(-256, 200, (3, 5, 2), dtype=np.int16)
    column = smx.decode_blocks(mantissas, exponents)[:, :, 0, ::4]
    expected = column.transpose(0, 2, 1).reshape(12, 5)
    np.testing.assert_array_equal(kernels.first_column(mantissas, exponents), expected)
