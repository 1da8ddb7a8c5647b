"""Integer gradients are gradients: they agree with real arithmetic, and stochastic rounding leaves no bias.

Bit exactness cannot show this, for two integer programs may share a wrong formula. At the widest mantissas the only
difference to the float engine is rounding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import Spec, differing
from numpy.typing import NDArray

from picopinn.device.local import LocalDevice
from picopinn.engine import Pass
from picopinn.floating import FloatEngine
from picopinn.integer import IntegerEngine
from picopinn.network import ACTIVATIONS, MODES, Activation, Mode, Network, Precision, stream_count
from picopinn.reference import encode_int, key, random_words

Floats = NDArray[np.float64]

WIDEST = Precision(16, 16, 16, 16, 16)
NETWORKS = {
    "dense": Network(2, hidden=12, layers=2, tt=None),
    "prs": Network(3, hidden=16, layers=3, tt=(4, 4), rank=3),
    "three modes": Network(2, hidden=24, layers=2, tt=(2, 3, 4), rank=2),
    "sequential": Network(2, hidden=16, layers=2, tt=(4, 4), rank=3, contraction="sequential"),
}


def setting(
    network: Network, mode: Mode, precision: Precision = WIDEST, seed: int = 4
) -> tuple[Floats, IntegerEngine, FloatEngine, list[Pass]]:
    """A master, both engines with it, and a pass along directions and one without."""
    rng = np.random.default_rng(seed)
    tensors = [t if t.ndim > 1 else rng.normal(0, 0.3, t.shape) for t in network.initial(rng)]
    master = np.concatenate([t.ravel() for t in tensors])
    integers, floats = IntegerEngine(network, precision, mode), FloatEngine(network, mode, np.float64)
    integers.load(master)
    floats.load(master)
    points, edge = (integers.snap(rng.random((count, network.inputs))) for count in (10, 6))
    directions = integers.snap_directions(0.5 * rng.normal(size=(2, network.inputs)))
    passes = [
        Pass(points, directions, rng.normal(size=(10, stream_count(mode, 2)))),
        Pass(edge, None, rng.normal(size=(6, 1))),
    ]
    for one in passes:
        integers.forward(one.points, one.directions)
    return master, integers, floats, passes


def by_tensor(network: Network, flat: Floats) -> list[Floats]:
    sizes = [t.size for t in network.program(WIDEST, "jet").tensors]
    return np.split(flat, np.cumsum(sizes)[:-1])


def distance(found: Floats, expected: Floats) -> float:
    """Largest difference by the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---- real arithmetic


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_they_agree_with_floats(name: str, mode: Mode, activation: Activation) -> None:
    network = replace(NETWORKS[name], activation=activation)
    _, integers, floats, passes = setting(network, mode)
    for one in passes:
        streams, exact = (engine.forward(one.points, one.directions) for engine in (integers, floats))
        for stream in range(exact.shape[1]):
            assert distance(streams[:, stream], exact[:, stream]) < 2e-3
    gradients = (by_tensor(network, engine.gradient(passes, 0)) for engine in (integers, floats))
    for found, expected in zip(*gradients, strict=True):
        assert distance(found, expected) < 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_slopes(name: str, mode: Mode, activation: Activation) -> None:
    """Finite differences of the exact streams, along each tensor's own gradient, where they are its square."""
    network = replace(NETWORKS[name], activation=activation)
    master, integers, floats, passes = setting(network, mode)

    def total(at: Floats) -> float:
        floats.load(at)
        return sum(float((floats.forward(p.points, p.directions) * p.cotangents).sum()) for p in passes)

    gradient, at, h = integers.gradient(passes, 0), 0, 1e-4
    for part in by_tensor(network, gradient):
        step = np.zeros_like(master)
        step[at : at + part.size] = part / np.linalg.norm(part)
        at += part.size
        slope = (total(master + h * step) - total(master - h * step)) / (2 * h)
        assert slope == pytest.approx(np.linalg.norm(part), rel=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_narrow_ones_point_the_same_way(mode: Mode) -> None:
    network = NETWORKS["prs"]
    _, integers, floats, passes = setting(network, mode, Precision())
    gradients = (by_tensor(network, engine.gradient(passes, 0)) for engine in (integers, floats))
    for found, expected in zip(*gradients, strict=True):
        assert found @ expected > 0.98 * np.linalg.norm(found) * np.linalg.norm(expected)


def test_a_step_that_saturates_is_repeated() -> None:
    """Exponents far too small at first: the engine raises them until nothing saturates; the gradient is the same."""
    network = NETWORKS["prs"]
    _, integers, floats, passes = setting(network, "jet")
    integers.gradient(passes, 0)
    usual = integers.state()["exponents"]
    integers.restore({"exponents": usual - 60})
    found = integers.gradient(passes, 0)
    assert distance(found, floats.gradient(passes, 0)) < 1e-3
    assert (np.abs(integers.state()["exponents"] - usual) <= 1).all()


def test_a_gradient_needs_no_forward_before() -> None:
    network = NETWORKS["prs"]
    master, integers, _, passes = setting(network, "jet")
    fresh = IntegerEngine(network, WIDEST, "jet")
    fresh.load(master)
    np.testing.assert_array_equal(fresh.gradient(passes, 0), integers.gradient(passes, 0))


# ---- stochastic rounding


def test_rounding_has_no_bias() -> None:
    """The mean over many microbatches of one encoded block is the block."""
    rng, count = np.random.default_rng(0), 20000
    block = rng.integers(-1 << 20, 1 << 20, 16)
    block[0] = 1 << 20  # so that none comes near the largest mantissa, where clipping pulls inwards
    words = random_words(key(1, 2, 3, np.arange(count), 4), 16)
    m, e, _ = encode_int(np.tile(block, (count, 1)), 0, 8, words)
    assert (e == e[0]).all()
    exact = np.ldexp(block.astype(float), -int(e[0]))
    below = np.floor(exact)
    assert (np.isin(m - below, [0, 1])).all()
    spread = np.sqrt((exact - below) * (1 - exact + below) / count)
    assert (np.abs(m.mean(axis=0) - exact) <= 4.5 * spread).all()


@pytest.mark.parametrize("mode", MODES)
def test_gradients_have_no_bias(mode: Mode) -> None:
    """Through the kernels: the mean over many steps is the gradient at the widest cotangents."""
    network, steps = NETWORKS["dense"], 400
    # a seed with no block near the largest mantissa, where clipping pulls inwards
    coarse, fine = (setting(network, mode, replace(WIDEST, gradients=bits), seed=13) for bits in (9, 16))
    passes = [replace(p, cotangents=np.round(p.cotangents * 8) / 8) for p in fine[3]]  # 9 bits hold these
    found, exact = (
        np.array([engine.gradient(passes, step) for step in range(count)])
        for engine, count in ((coarse[1], steps), (fine[1], 40))
    )
    noisy = found.std(axis=0) > 0
    error = found.std(axis=0)[noisy] / np.sqrt(steps)
    scores = (found.mean(axis=0) - exact.mean(axis=0))[noisy] / error
    assert noisy.mean() > 0.9  # all but the last layer's, whose cotangents come from outside
    assert np.abs(scores).max() < 4.5
    assert np.sqrt((scores**2).mean()) < 1.25


def test_random_numbers_depend_on_every_counter() -> None:
    """Seed, step, stage, microbatch, stream and element each give other numbers; 32 bits of them, evenly."""
    base = (1, 2, 3, 4, 5)
    keys = [base, *[tuple(c + (i == k) for i, c in enumerate(base)) for k in range(5)]]
    words = np.array([random_words(key(*k), 4096) for k in keys])
    assert len(np.unique(words)) > words.size - 5
    ones = np.array([((words >> bit) & 1).mean() for bit in range(32)])
    assert (np.abs(ones - 0.5) < 5 * 0.5 / np.sqrt(words.size)).all()


@pytest.mark.parametrize("counter", ["seed", "step", "first"])
def test_kernels_use_every_counter(counter: str) -> None:
    case = Spec(precision=replace(WIDEST, gradients=6)).case()
    device = LocalDevice()
    changed = replace(case, **{counter: getattr(case, counter) ^ 1})
    found = differing(case.run(device), changed.run(device))
    assert "gradients" in found
    assert set(found) <= {"gradients", "gradient exponents", "peaks"}
