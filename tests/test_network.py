"""Networks: how a first layer starts, and how wide bonds are."""

from __future__ import annotations

import numpy as np
import pytest

from picopinn import Network
from picopinn.errors import UsageError
from picopinn.settings import Settings


def test_omega_sets_the_first_layer_and_nothing_else() -> None:
    given, plain = (
        Network(2, hidden=400, tt=(20, 20), omega=omega).initial(np.random.default_rng(0)) for omega in (8.0, None)
    )
    weights, biases = given[:2]
    assert np.sqrt((weights**2).sum(axis=1).mean()) == pytest.approx(8, rel=0.1)
    assert 7.5 < np.abs(biases).max() <= 8 and abs(biases.mean()) < 1
    for one, other in zip(given[2:], plain[2:], strict=True):
        assert one.std() == pytest.approx(other.std(), rel=0.5)
    assert not plain[1].any() and plain[0].std() == pytest.approx(np.sqrt(2 / 402), rel=0.1)


@pytest.mark.parametrize("omega", [0.0, -1.0, np.inf])
def test_a_size_that_cannot_be_is_refused(omega: float) -> None:
    with pytest.raises(UsageError, match="omega must be a positive number"):
        Network(2, omega=omega)


@pytest.mark.parametrize("rank", [3, 8, 40, 64])
@pytest.mark.parametrize("modes", [(8, 8), (4, 4, 4), (64,)])
def test_an_orthogonal_start_is_equally_long_in_every_direction_of_the_rank(modes: tuple[int, ...], rank: int) -> None:
    network = Network(2, hidden=64, tt=modes, rank=rank, init="orthogonal")
    first = [t for t in network.initial(np.random.default_rng(0)) if t.ndim == 3][: 2 * len(modes)]
    halves = []
    for half in (first[: len(modes)], first[len(modes) :]):
        product = half[0]
        for core in half[1:]:
            product = np.tensordot(product, core, 1)
        halves.append(product.reshape(rank, 64))
    lengths = np.linalg.svd(halves[1].T @ halves[0], compute_uv=False)
    assert lengths[:rank] == pytest.approx(np.sqrt(64 / rank)) and lengths[rank:] == pytest.approx(0, abs=1e-12)


def test_an_orthogonal_start_is_of_tensor_trains() -> None:
    with pytest.raises(UsageError, match="orthogonal is a start of tensor trains: give tt, or leave out init"):
        Network(2, tt=None, init="orthogonal")
    assert Settings.of("helmholtz2d").init == "orthogonal" and Settings.of("helmholtz2d", tt=None).init == "normal"


def test_bonds_are_no_wider_than_what_lies_behind_them() -> None:
    network = Network(2, hidden=64, tt=(4, 4, 4), rank=10)
    assert network.half_chain.ranks == (10, 10, 4, 1)
    assert Network(2).half_chain.ranks == (8, 8, 1)
    assert network.parameters == Network(2, hidden=64, tt=(4, 4, 4), rank=10, contraction="sequential").parameters
    cores = [t for t in network.initial(np.random.default_rng(0)) if t.ndim == 3][:6]
    halves = [np.einsum("aib,bjc,ckd->aijkd", *half).reshape(10, 64) for half in (cores[:3], cores[3:])]
    assert (halves[1].T @ halves[0]).std() == pytest.approx(1 / 8, rel=0.2)  # as Glorot has a 64 x 64 matrix
