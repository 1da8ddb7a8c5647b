"""What benchmarks compute from what they measure; nothing is timed here."""

from __future__ import annotations

import pytest

from benchmarks import products, scaling, step_profile


@pytest.mark.parametrize(
    ("functions", "kind"),
    [
        ("ppn_add_simd ppn_tile_sum ppn_tile_product ppn_rows_times", "products"),
        ("_mm512_srav_epi32 ppn_asr_by_simd ppn_tile_sum ppn_tile_product", "alignment"),
        ("ppn_asr_by_simd ppn_shifted_madd ppn_return_odd", "activation"),
        ("ppn_round_chunk", "quantization"),
        ("ppn_m0_spread8_turned ppn_m0_outer_product ppn_outer ppn_stage_gradient", "gradients"),
        ("ppn_m0_pairs8 ppn_m0_sum ppn_m0_product ppn_ready_product ppn_product ppn_load", "TT contraction"),
        ("ppn_load_simd ppn_right_simd ppn_take_columns", "products"),
        ("ppn_backward_avx512", "activation"),
        ("main", "other"),
    ],
)
def test_what_a_function_counts_as(functions: str, kind: str) -> None:
    assert step_profile.kind(tuple(functions.split())) == kind


def test_products_are_of_all_stages() -> None:
    shapes = [(shape.rows, shape.inner, shape.cols) for shape in products.shapes()]
    assert (500, 256, 8) in shapes and (500, 8, 256) in shapes  # poisson2d, K = 2
    assert (4300, 2, 512) in shapes  # hjb20d, K = 20 and time
    assert len(set(shapes)) == len(shapes)
    assert all(3 <= shape.calls <= 300 for shape in products.shapes())


def test_exponents_are_of_the_upper_half() -> None:
    p, c = scaling.exponent([1, 2, 4, 8], [5, 7, 3 * 16, 3 * 64])
    assert (p, c) == pytest.approx((2, 3))


def test_sizes_have_no_more_directions_than_dimensions() -> None:
    sizes = [size for sweep in scaling.SWEEPS for size in sweep.sizes()]
    assert all(size.directions <= size.dimensions for size in sizes)
    assert max(size.dimensions for size in sizes) == 1000
