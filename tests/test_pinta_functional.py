"""The chip's arithmetic, slice by slice, against the C kernels: every product of training steps, and the quantizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picopinn import Estimator, Network, Solver, kernels, reference, smx
from picopinn.integer import IntegerEngine
from picopinn.network import Precision
from picopinn.problems import get
from pinta_model import functional
from pinta_model.functional import Blocks

widths = st.integers(4, 16)


@settings(max_examples=60, deadline=None)
@given(widths, widths, st.integers(0, 2**32 - 1))
def test_slices_make_the_exact_product(bits_a: int, bits_b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-smx.largest(bits), smx.largest(bits) + 1, (3, 4, 4)) for bits in (bits_a, bits_b))
    assert (functional.block_products(a, b, bits_a, bits_b) == a @ b).all()
    *low, top = functional.split(a, bits_a)
    assert all(part.min() >= 0 and part.max() <= 15 for part in low)
    assert top.min() >= -8 and top.max() <= 7


@settings(max_examples=100, deadline=None)
@given(widths, st.integers(-150, 150), st.integers(0, 31), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_quantizer_is_that_of_the_oracle(bits: int, exponent: int, size: int, stochastic: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**size) + 1, 2**size, (5, 16)) * rng.integers(0, 2, (5, 1))
    random = rng.integers(0, 2**32, (5, 16)) if stochastic else None
    exponents = np.full(5, exponent)
    m, e = functional.encode(x, exponents, bits, random)
    expected, expected_e, _ = reference.encode_int(x, exponents, bits, random)
    assert (m == expected).all() and (e == expected_e).all()


class Traced:
    """Stands in for the oracle's products with those of the chip, each compared with the C kernels'."""

    def __init__(self) -> None:
        self.products = self.terms = self.encoded = 0

    def encode(self, x: Any, exponent: Any, bits: Any, random: Any = None) -> Any:
        """The chip's quantizer on every block that the step encodes."""
        m, e, overflow = ORACLE_ENCODE(x, exponent, bits, random)
        width, exponents = (
            np.broadcast_to(np.asarray(value, dtype=np.int64), x.shape[:-1]) for value in (bits, exponent)
        )
        found_m, found_e = np.zeros_like(m), np.zeros_like(e)
        for one in np.unique(width):
            rows = width == one
            rounding = None if random is None else random[rows]
            found_m[rows], found_e[rows] = functional.encode(x[rows], exponents[rows], int(one), rounding)
        assert (found_m == m).all() and (found_e == e).all()
        self.encoded += width.size
        return found_m, found_e, overflow

    def row_product(self, a: Any, b: Any, shift: Any) -> Any:
        inner = b.e.shape[0]
        left, left_e = a.m.reshape(-1, inner, 4, 4), a.e.reshape(-1, inner)
        lead = a.e.shape[:-1]
        shifts = np.broadcast_to(shift, (*lead, b.e.shape[1]))[..., 0].reshape(-1)
        right = b.m.reshape(*b.e.shape, 4, 4)
        total = np.zeros((len(left), b.e.shape[1], 4, 4), dtype=np.int64)
        exponents = np.zeros(total.shape[:2], dtype=np.int64)
        for h in np.unique(shifts):
            rows = shifts == h
            total[rows], exponents[rows] = self.product(left[rows], left_e[rows], right, b.e, int(h))
        return reference.Scaled(total.reshape(*lead, -1, 16), exponents.reshape(*lead, -1))

    def product(self, a: Any, a_e: Any, b: Any, b_e: Any, h: int) -> tuple[Any, Any]:
        p, q = narrowest(a, b, h)
        m, e = functional.product(Blocks(a, a_e, p), Blocks(b, b_e, q))
        in_c = kernels.matmul(in_smx(a, a_e, p), in_smx(b, b_e, q))
        assert (m == in_c.blocks).all() and (e == in_c.exponents).all()
        self.products += 1
        return m, e

    def outer_blocks(self, left: Any, right: Any) -> tuple[Any, Any]:
        a = left.m.reshape(*left.e.shape, 1, 4, 4).swapaxes(-1, -2)
        b = right.m.reshape(right.e.shape[0], 1, right.e.shape[1], 4, 4)
        both = functional.block_products(a, b, 16, 16)
        self.terms += both[..., 0, 0].size
        return both.reshape(*both.shape[:3], 16), (left.e[:, :, None] + right.e[:, None, :])[..., None]

    def add(self, sums: reference.Accumulator, x: Any, e: Any) -> None:
        """Beside the oracle's own sums, those of the chip."""
        shape = sums.sums.shape[:-1]
        if sums.sums.shape[-1] != 16:
            return ORACLE_ADD(sums, x, e)  # a bias
        terms = x.reshape(-1, *shape, 4, 4)
        exponents = np.broadcast_to(e[..., 0], x.shape[:-1]).reshape(-1, *shape)
        before = sums.sums.reshape(*shape, 4, 4).copy()
        expected = functional.accumulate(before, terms, exponents, sums.exponent)
        ORACLE_ADD(sums, x, e)
        assert (sums.sums.reshape(expected.shape) == expected).all()
        return None


ORACLE_ADD = reference.Accumulator.add
ORACLE_ENCODE = reference.encode_int


def narrowest(a: Any, b: Any, h: int) -> tuple[int, int]:
    """Widths that hold these mantissas and need this headroom."""
    fit = [[bits for bits in range(4, 17) if np.abs(m).max() <= smx.largest(bits)] for m in (a, b)]
    return next((p, q) for p in fit[0] for q in fit[1] if functional.headroom(p, q, a.shape[1]) == h)


def in_smx(m: Any, e: Any, bits: int) -> smx.SMX:
    blocks, exponents = np.ascontiguousarray(m, dtype=np.int16), np.ascontiguousarray(e, dtype=np.int8)
    return smx.SMX(blocks, exponents, (4 * e.shape[0], 4 * e.shape[1]), bits)


NETWORKS = {
    "tensor train": (Network(2, hidden=64, layers=3, tt=(8, 8), rank=4), "w8a8g12", "jet"),
    "dense, other widths": (Network(2, hidden=20, layers=2, tt=None, activation="sine"), "w6a10b16g14", "orthogonal"),
    "core by core": (Network(2, hidden=32, layers=2, tt=(4, 8), rank=3, contraction="sequential"), "w4a8g8", "jet"),
}


@pytest.mark.parametrize(("network", "precision", "kind"), NETWORKS.values(), ids=NETWORKS)
def test_training_steps_on_the_chip_give_the_bits_of_the_kernels(
    network: Network, precision: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = Traced()
    monkeypatch.setattr(reference, "row_product", traced.row_product)
    monkeypatch.setattr(reference, "outer_blocks", traced.outer_blocks)
    monkeypatch.setattr(reference, "encode_int", traced.encode)
    monkeypatch.setattr(reference.Accumulator, "add", lambda sums, x, e: traced.add(sums, x, e))
    estimator = Estimator(kind)
    shared = {"steps": 3, "batch": 8, "seed": 1}
    engine = IntegerEngine(network, Precision.parse(precision), estimator.mode, seed=1, device=reference.Reference())
    chip = Solver(get("poisson2d")(), network, estimator, precision, engine=engine, **shared)
    in_c = Solver(get("poisson2d")(), network, estimator, precision, **shared)
    for solver in (chip, in_c):
        solver.step()
        solver.step()
    assert traced.products > 20 and traced.terms > 1000 and traced.encoded > 1000
    assert chip.weights_sha256() == in_c.weights_sha256()
