"""Baselines, the ladder from GPU to accelerator, and sweeps: each against what it is made of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_pinta_workload import NETWORKS, printed

import pinta_model
from picopinn import pinta
from pinta_model import PintaError, evaluate
from pinta_model.baselines import EagerStep, claimed, eager, gpu, rp2040_watts
from pinta_model.compare import EAGER, Rung, ladder
from pinta_model.explore import PORT_BYTES, Axes, frontier, sweep

DESIGN = pinta_model.default()


def test_a_gpu_takes_the_largest_of_three_bounds() -> None:
    card = gpu()
    few = EagerStep(launches=10, flops=10, nbytes=10, cpu_seconds=1.0)
    assert card.seconds(few) == (10 * card.launch_seconds, "launches")
    assert card.seconds(replace(few, flops=10**15)) == (10**15 / card.flops_per_second, "arithmetic")
    assert card.seconds(replace(few, nbytes=10**14)) == (10**14 / card.bytes_per_second, "memory")
    assert card.seconds(replace(few, gpu_seconds=2.5)) == (2.5, "measured")
    assert card.joules(few) == pytest.approx(10 * card.launch_seconds * card.watts)


def test_unknown_steps_are_refused() -> None:
    with pytest.raises(PintaError, match="no step 'dense ad' of 'burgers'"):
        eager("burgers", "dense ad")


@pytest.mark.parametrize("problem", ["poisson2d", "hjb20d", "heat100d"])
def test_a_tensor_train_has_fewer_operations(problem: str) -> None:
    steps = {variant: eager(problem, variant) for variant, _, _ in EAGER}
    assert steps["tt se"].flops < steps["dense se"].flops
    assert steps["tt jet"].launches < 10 * steps["dense se"].launches


def test_a_ladder_starts_at_one_and_keeps_the_reports() -> None:
    step = printed(NETWORKS["tensor train"])
    board = Rung("board", "", 3.0, 4.0, "slow")
    rungs = ladder("poisson2d", [("chip", "PINTA", step)], DESIGN, [board])
    assert [rung.change for rung in rungs if rung.change] == ["baseline", "SE", "TT", "jets", "PINTA"]
    assert [rung.name.split(",")[0] for rung in rungs] == ["GPU"] * 4 + ["CPU"] * 4 + ["board", "chip"]
    report = evaluate(step, DESIGN)
    assert rungs[-1].seconds == report.seconds and rungs[-1].joules == pytest.approx(report.pj * 1e-12)
    assert rungs[4].seconds == eager("poisson2d", "dense ad").cpu_seconds and math.isnan(rungs[4].joules)
    assert claimed().speedup == (5.5, 83.5)


def test_a_microcontroller_is_told_apart_where_its_memory_does_not_do() -> None:
    fits, large = pinta.on_a_board("poisson2d"), pinta.on_a_board("hjb20d")
    assert fits.limit.startswith("fits") and large.limit.startswith("does not fit: extrapolated")
    assert 1 < fits.seconds < large.seconds < 100  # 0.4 and 1.1 Gcycles at 125 MHz
    for rung in (fits, large):
        assert rung.joules == pytest.approx(rung.seconds * rp2040_watts())


def test_a_sweep_gives_what_single_designs_give() -> None:
    step = printed(NETWORKS["dense"])
    axes = Axes((2, 8), (4,), (32, 128), (200.0, 800.0), (16, 64), ("output", "best"))
    found = sweep({"w8a8g12": step}, DESIGN, axes)
    assert len(found) == axes.size == 32 and found.refused == 0
    for row in range(0, len(found), 5):
        c = {key: column[row] for key, column in found.columns.items()}
        array = replace(
            DESIGN.array,
            rows=int(c["rows"]),
            cols=int(c["cols"]),
            slice_multipliers=int(c["slice_multipliers"]),
            dataflow=str(c["dataflow"]),
            row_port_bytes=PORT_BYTES * int(c["rows"]),
            col_port_bytes=PORT_BYTES * int(c["cols"]),
        )
        buffer = replace(DESIGN.buffers["activation"], size_bytes=int(c["activation_kib"]) * 1024)
        buffers = {**DESIGN.buffers, "activation": buffer}
        one = evaluate(step, replace(DESIGN, array=array, clock_mhz=float(c["clock_mhz"]), buffers=buffers))
        assert c["cycles"] == one.cycles
        assert c["pj"] == pytest.approx(one.pj)
        assert c["seconds"] == pytest.approx(one.seconds)


def test_designs_without_room_for_a_tile_are_left_out_and_counted() -> None:
    axes = Axes((2, 64), (4,), (64,), (400.0,), (1, 64), ("best",))
    found = sweep({"w8a8g12": printed(NETWORKS["dense"])}, DESIGN, axes)
    assert found.refused == 1 and len(found) == 3


def test_a_frontier_is_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    seconds, pj = rng.integers(1, 30, 200).astype(float), rng.integers(1, 30, 200).astype(float)
    front = frontier(seconds, pj)
    for index in range(200):
        no_worse = (seconds <= seconds[index]) & (pj <= pj[index])
        beaten = (no_worse & ((seconds < seconds[index]) | (pj < pj[index]))).any()
        same = any(seconds[f] == seconds[index] and pj[f] == pj[index] for f in front)
        assert same != beaten
