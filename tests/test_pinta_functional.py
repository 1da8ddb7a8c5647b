"""The chip's arithmetic, slice by slice: whole training steps, every tensor of them against the C kernels."""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picopinn import Estimator, Network, Solver, reference, smx, workload
from picopinn.device.base import Gradients, Rows, Values
from picopinn.device.local import LocalDevice
from picopinn.device.packing import program_bytes
from picopinn.integer import IntegerEngine
from picopinn.network import Precision
from picopinn.problems import get
from pinta_model import functional, loads, step
from pinta_model.functional import Scaled
from pinta_model.step import Chip
from pinta_model.workload import Gemm, blocks_of

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


class Recorded(reference.Reference):
    """The oracle, which remembers the streams and cotangents of its last backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: Any = None
        self.cotangents: list[Any] = []

    def _run(self, points: Any, directions: Any) -> Any:
        self.tape, self.cotangents = super()._run(points, directions), []
        return self.tape

    def _input_cotangent(self, *arguments: Any) -> Any:
        self.cotangents.append(super()._input_cotangent(*arguments))
        return self.cotangents[-1]


class Lockstep:
    """A device that is three: the chip, the C kernels and the oracle. Every tensor of every verb must agree."""

    def __init__(self) -> None:
        self.c, self.oracle = LocalDevice(), Recorded()
        self.tensors: set[str] = set()

    def same(self, name: str, found: Scaled, mantissas: Any, exponents: Any) -> None:
        assert found.x.shape == mantissas.shape, name
        assert (found.x == mantissas).all() and (found.e == exponents).all(), name
        self.tensors.add(name)

    def configure(self, program: Any, directions: int) -> None:
        self.chip = Chip(program_bytes(program, directions))
        for other in (self.c, self.oracle):
            other.configure(program, directions)

    def load(self, weights: Rows) -> None:
        self.chip.load(scaled(weights))
        for other in (self.c, self.oracle):
            other.load(weights)
        for i, (mine, its) in enumerate(zip(self.chip.layers, self.oracle.weights, strict=True)):
            for name, a, b in zip(count(), [mine.matrix, *mine.tails], [its.matrix, *its.tails], strict=False):
                m = a.mantissas.reshape(*a.exponents.shape, 16)
                self.same(f"weights {i}.{name}", Scaled(m, a.exponents), b.blocks.reshape(m.shape), b.exponents)

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        values = self.c.forward(points, directions, keep)
        found = self.chip.forward(scaled(points), directions and scaled(directions)).output
        assert found is not None
        self.same("output", found, values.mantissas, values.exponents)
        return values

    def begin(self, scaling: Any, seed: int, step: int) -> None:
        self.chip.begin(scaling.exponents.tolist(), scaling.limit, seed, step)
        for other in (self.c, self.oracle):
            other.begin(scaling, seed, step)

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        tape = self.chip.forward(scaled(points), directions and scaled(directions))
        found = self.chip.backward(tape, scaled(cotangents), first)
        for other in (self.c, self.oracle):
            other.backward(points, directions, cotangents, first)
        for i, (mine, its) in enumerate(zip(tape.inputs, self.oracle.tape.inputs, strict=True)):
            self.same(f"streams {i}", mine, its.m, its.e)
        for i, (linear, kept) in enumerate(zip(tape.kept, self.oracle.tape.kept, strict=True)):
            if linear is not None:
                assert (linear.p1 == kept.p1).all()
                for part in ("odd", "even") if linear.odd else ():
                    self.same(f"{part} {i}", getattr(linear, part), getattr(kept, part).m, getattr(kept, part).e)
        for i, (mine, its) in enumerate(zip(found[1:], self.oracle.cotangents, strict=True)):
            self.same(f"cotangents {i}", mine, its.m, its.e)

    def gradients(self) -> Gradients:
        in_c = self.c.gradients()
        self.same("gradients", self.chip.gradients(), in_c.values.mantissas, in_c.values.exponents)
        assert self.chip.peaks == in_c.peaks.tolist()
        return in_c

    def flags(self) -> int:
        return self.c.flags()


def scaled(rows: Rows) -> Scaled:
    return Scaled(rows.mantissas.astype(np.int64), rows.exponents.astype(np.int64))


TT = Network(2, hidden=64, layers=3, tt=(8, 8), rank=4)
SINE = Network(2, hidden=32, layers=2, tt=(4, 2, 4), rank=3, activation="sine")
DENSE = Network(2, hidden=20, layers=2, tt=None, activation="sine")
CORES = Network(2, hidden=32, layers=2, tt=(4, 8), rank=3, contraction="sequential")
STEPS = {
    "jets": (TT, "w8a8g12", Estimator("jet")),
    "jets, sine, three cores": (SINE, "w8a8g12", Estimator("jet")),
    "dense, other widths": (DENSE, "w6a10b16g14", Estimator("jet")),
    "core by core": (CORES, "w4a8g8", Estimator("jet")),
    "odd-even": (TT, "w8a8g12", Estimator("gaussian", 0.3, 3, "odd-even")),
    "odd-even, sine": (SINE, "w8a8g12", Estimator("gaussian", 0.3, 3, "odd-even")),
    "difference": (TT, "w8a8g12", Estimator("gaussian", 0.3, 3, "difference")),
    "difference, sine": (SINE, "w16a16g16", Estimator("gaussian", 0.3, 3, "difference")),
    "naive": (TT, "w8a8g12", Estimator("gaussian", 0.3, 2, "naive")),
    "laplacian": (TT, "w8a8g12", Estimator("laplacian")),
    "laplacian, sine, one direction": (SINE, "w6a10b16g14", Estimator("laplacian", directions=1)),
}


@pytest.mark.parametrize(("network", "precision", "estimator"), STEPS.values(), ids=STEPS)
def test_training_steps_on_the_chip_have_the_bits_of_the_kernels(
    network: Network, precision: str, estimator: Estimator
) -> None:
    device = Lockstep()
    engine = IntegerEngine(network, Precision.parse(precision), estimator.mode(), seed=1, device=device)
    solver = Solver(get("poisson2d")(), network, estimator, precision, steps=3, batch=8, seed=1, engine=engine)
    solver.step()
    solver.step()
    stages = len(device.chip.program.stages)
    inside = {f"streams {i}" for i in range(stages)} | {f"cotangents {i}" for i in range(stages - 1)}
    assert inside | {"output", "gradients", "weights 0.0"} <= device.tensors


@pytest.mark.parametrize("network", [TT, SINE, DENSE, CORES])
def test_the_chip_multiplies_what_the_workload_lists(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """By widths, but for the first stage (14 bits), whose directions the list shares and whose zeros it leaves out."""
    found: Counter[tuple[int, int]] = Counter()
    original = functional.block_products

    def counted(a: Any, b: Any, *widths: int) -> Any:
        products = original(a, b, *widths)
        found[widths] += products[..., 0, 0].size
        return products

    for module in (functional, step):
        monkeypatch.setattr(module, "block_products", counted)
    program = network.program(Precision(6, 8, 10, 12, 14), "jet")
    chip = Chip(program_bytes(program, 2))
    chip.load(zeros(sum(tensor.blocks for tensor in program.tensors)))
    tape = chip.forward(zeros(3, 1, 1), zeros(2, 1))
    chip.begin([0] * 20, 20, 0, 0)
    chip.backward(tape, zeros(3, 5, 1), 0)
    chip.gradients()
    listed: Counter[tuple[int, int]] = Counter()
    for section, o in loads(workload.to_json("step", program, 12, 0, 2, 2)).operations():
        if isinstance(o, Gemm):
            listed[o.bits_a, o.bits_b] += section.repeat * blocks_of(o.m) * blocks_of(o.k) * blocks_of(o.n)
    assert {k: n for k, n in found.items() if 14 not in k} == {k: n for k, n in listed.items() if 14 not in k}


def zeros(*shape: int) -> Scaled:
    return Scaled(np.zeros((*shape, 16), np.int64), np.zeros(shape, np.int64))
