"""The float engine against function values, finite differences and itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn.engine import Pass
from picopinn.floating import FloatEngine
from picopinn.network import ACTIVATIONS, MODES, SUMMED, Activation, Mode, Network, Precision, stream_count

Floats = NDArray[np.float64]

NETWORKS = {
    "dense": Network(3, hidden=8, layers=2, tt=None),
    "tt1": Network(3, hidden=8, layers=2, tt=(8,), rank=3),
    "tt2": Network(3, hidden=12, layers=3, tt=(3, 4), rank=2),
    "tt3": Network(3, hidden=24, layers=2, tt=(2, 3, 4), rank=2),
    "sequential": Network(3, hidden=12, layers=2, tt=(3, 4), rank=2, contraction="sequential"),
}


def weights(network: Network, seed: int = 0) -> Floats:
    """Initial weights, with biases that matter."""
    rng = np.random.default_rng(seed)
    tensors = network.initial(rng)
    return np.concatenate([t.ravel() if t.ndim > 1 else rng.normal(0, 0.3, t.size) for t in tensors])


def engine_of(network: Network, mode: Mode, dtype: Any = np.float64) -> FloatEngine:
    engine = FloatEngine(network, mode, dtype)
    engine.load(weights(network))
    return engine


def setting(size: float = 1.0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(1)
    return rng.random((5, 3)), size * rng.normal(size=(2, 3))


def dense_function(network: Network, x: Floats) -> Floats:
    """The network by naive full matrices: each TT layer written out core by core."""
    master, at = weights(network), 0
    parts = {}
    for tensor in network.program(Precision(), "jet").tensors:
        parts[tensor.name] = master[at : at + tensor.size].reshape(tensor.shape)
        at += tensor.size
    phi = np.tanh if network.activation == "tanh" else np.sin
    for layer in range(len(network.sizes) - 1):
        matrix = parts.get(f"layer{layer}.weight")
        if matrix is None:
            halves = [chain([v for k, v in sorted(parts.items()) if f"layer{layer}.{s}." in k]) for s in ("out", "in")]
            matrix = halves[0].T @ halves[1]
        x = x @ matrix.T + parts[f"layer{layer}.bias"]
        if layer + 2 < len(network.sizes):
            x = phi(x)
    return x[:, 0]


def chain(cores: list[Floats]) -> Floats:
    whole = cores[0]
    for core in cores[1:]:
        whole = np.tensordot(whole, core, axes=1)
    return whole.reshape(cores[0].shape[0], -1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_without_directions_it_is_the_network(name: str, activation: Activation) -> None:
    network = replace(NETWORKS[name], activation=activation)
    x, _ = setting()
    for mode in MODES:
        np.testing.assert_allclose(
            engine_of(network, mode).forward(x, None)[:, 0], dense_function(network, x), rtol=1e-12
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e-2, 1.5])
def test_finite_step_modes_are_one_set_of_numbers(activation: Activation, size: float) -> None:
    """Odd and even parts, and differences, from the values at x and x +- d; 1.5 is far from any series."""
    network = replace(NETWORKS["tt2"], activation=activation)
    x, d = setting(size)
    naive = engine_of(network, "naive").forward(x, d)
    base, plus, minus = naive[:, :1], naive[:, 1::2], naive[:, 2::2]
    for k, step in enumerate(d):
        np.testing.assert_allclose(plus[:, k], dense_function(network, x + step), rtol=1e-12)
        np.testing.assert_allclose(minus[:, k], dense_function(network, x - step), rtol=1e-12)
    difference = engine_of(network, "difference").forward(x, d)
    odd_even = engine_of(network, "odd-even").forward(x, d)
    for got, expected in (
        (difference[:, 1::2], plus - base),
        (difference[:, 2::2], minus - base),
        (odd_even[:, 1::2], (plus - minus) / 2),
        (odd_even[:, 2::2], (plus + minus) / 2 - base),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_jets_are_the_limit_of_small_steps(activation: Activation) -> None:
    network = replace(NETWORKS["tt3"], activation=activation)
    x, d = setting()
    h = 1e-4
    jet = engine_of(network, "jet").forward(x, d)
    pair = engine_of(network, "odd-even").forward(x, h * d)
    np.testing.assert_allclose(jet[:, 0], pair[:, 0], rtol=1e-14)
    np.testing.assert_allclose(jet[:, 1::2], pair[:, 1::2] / h, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jet[:, 2::2], pair[:, 2::2] / h**2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", SUMMED)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_shared_even_part_is_the_sum_of_those_of_jets(activation: Activation, mode: Mode) -> None:
    network = replace(NETWORKS["tt3"], activation=activation)
    x, d = setting()
    jet, summed = (engine_of(network, one).forward(x, d) for one in ("jet", mode))
    counted = jet[:, 2:-1:2] if mode == "laplacian-time" else jet[:, 2::2]
    np.testing.assert_allclose(summed[:, :-1], np.column_stack([jet[:, :1], jet[:, 1::2]]), rtol=1e-12)
    np.testing.assert_allclose(summed[:, -1], counted.sum(axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["odd-even", "difference"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_small_steps_lose_no_digits_in_float32(activation: Activation, mode: Mode) -> None:
    """Steps of 1e-3: values at x +- d agree to 4 digits in float32, what differs must not."""
    network = replace(NETWORKS["tt2"], activation=activation)
    x, d = setting()
    x, d = np.float32(x).astype(np.float64), np.float32(1e-3 * d).astype(np.float64)
    exact = engine_of(network, mode).forward(x, d)
    single = engine_of(network, mode, np.float32).forward(x, d)
    scale = np.abs(exact).max(axis=0)
    assert (np.abs(single - exact).max(axis=0) < 1e-5 * scale).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_matches_finite_differences(name: str, mode: Mode, activation: Activation) -> None:
    network = replace(NETWORKS[name], activation=activation)
    rng = np.random.default_rng(2)
    x, d = setting(0.7)
    edge = rng.random((3, 3))
    passes = [Pass(x, d, rng.normal(size=(5, stream_count(mode, 2)))), Pass(edge, None, rng.normal(size=(3, 1)))]
    engine, master, h = FloatEngine(network, mode, np.float64), weights(network), 1e-5

    def total(at: Floats) -> float:
        engine.load(at)
        return sum(float((engine.forward(p.points, p.directions) * p.cotangents).sum()) for p in passes)

    engine.load(master)
    gradient = engine.gradient(passes, 0)
    for i in rng.choice(master.size, 25, replace=False):
        step = np.zeros_like(master)
        step[i] = h
        expected = (total(master + step) - total(master - step)) / (2 * h)
        assert gradient[i] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_the_kept_tape_changes_no_bit() -> None:
    network = NETWORKS["tt2"]
    x, d = setting()
    passes = [Pass(x, d, np.ones((5, 5)))]
    fresh, kept = engine_of(network, "jet", np.float32), engine_of(network, "jet", np.float32)
    kept.forward(x, d)
    assert (fresh.gradient(passes, 0) == kept.gradient(passes, 0)).all()


def test_a_load_forgets_the_tape() -> None:
    network = NETWORKS["dense"]
    x, d = setting()
    passes = [Pass(x, d, np.ones((5, 5)))]
    engine, fresh = engine_of(network, "jet"), FloatEngine(network, "jet", np.float64)
    engine.forward(x, d)
    for one in (engine, fresh):
        one.load(weights(network, seed=9))
    assert (engine.gradient(passes, 0) == fresh.gradient(passes, 0)).all()
