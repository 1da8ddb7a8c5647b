"""What `picopinn fit` tells of a board is what the board, here the real image in an emulator, then answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from picopinn import boards, cli, fit
from picopinn.device.addresses import emulated_board, open_session
from picopinn.device.remote import RemoteDevice
from picopinn.errors import UsageError
from picopinn.estimators import STEPLESS, Estimator
from picopinn.integer import IntegerEngine
from picopinn.link.session import Session
from picopinn.network import Network, Precision, Program
from picopinn.problems import get
from picopinn.smx import blocks_of
from picopinn.solver import Solver

BOARD = boards.load("rp2040")
DEFAULT = Precision()
SMALL = Network(2, hidden=64, tt=(8, 8))
LARGE = Network(2, hidden=256, tt=None)  # more than any RP2040 has room for
# programs, directions, microbatches of a step, cores
CASES: dict[str, tuple[Program, int, int, int]] = {
    "the default": (Network(2).program(DEFAULT, "jet"), 2, 50, 2),
    "small, one core": (SMALL.program(DEFAULT, "jet"), 2, 8, 1),
    "small, two cores": (SMALL.program(DEFAULT, "jet"), 2, 8, 2),
    "wide numbers": (SMALL.program(Precision(16, 16, 16, 16), "jet"), 2, 50, 2),
    "naive": (Network(3, hidden=32, tt=None, layers=2).program(DEFAULT, "naive"), 6, 10, 2),
    "difference, core by core": (
        Network(2, hidden=64, tt=(4, 4, 4), rank=4, contraction="sequential").program(DEFAULT, "difference"),
        4,
        10,
        2,
    ),
}


@pytest.fixture
def emulated(bare_image: Path) -> Iterator[Session]:  # an image that is not there is told by bare_image
    """A board that has just started: after other networks its heap is in smaller pieces."""
    board = emulated_board("rp2040")
    session = open_session(f"serial:{board.port}")
    session.connect()
    yield session
    session.close()
    board.close()


def test_the_heap_is_what_the_board_has_free(emulated: Session) -> None:
    assert BOARD.heap_bytes is not None
    assert abs(emulated.connect()["free"] - BOARD.heap_bytes) <= 1024


@pytest.mark.parametrize("name", CASES)
def test_memory_is_what_the_board_answers(name: str, emulated: Session) -> None:
    program, directions, microbatches, cores = CASES[name]
    predicted = fit.memory(program, directions, BOARD, microbatches, cores)
    device = RemoteDevice(emulated, microbatches=microbatches, cores=cores)
    device.configure(program, directions)
    answered = device.memory
    assert answered is not None
    assert answered.regions == predicted.regions
    assert (answered.used, answered.tapes, answered.cores) == (predicted.used, predicted.tapes, predicted.cores)
    assert abs(answered.left - (predicted.heap - predicted.used)) <= 2048  # MicroPython's own small objects


def test_what_does_not_fit_is_refused_with_the_same_numbers(emulated: Session) -> None:
    program = LARGE.program(DEFAULT, "jet")
    with pytest.raises(UsageError, match="bytes needed") as predicted:
        fit.memory(program, 2, BOARD, 8, 2)
    with pytest.raises(UsageError, match="bytes needed") as answered:
        RemoteDevice(emulated, microbatches=8).configure(program, 2)
    ours, theirs = (
        [int(number) for number in re.findall(r"\d{4,}", str(error.value).replace(",", ""))][-2:]
        for error in (predicted, answered)
    )
    assert ours[0] == theirs[0]
    assert abs(ours[1] - theirs[1]) <= 1024


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "poisson2d", "--board", "rp2040", "--hidden", "64", "--tt", "8x8", "--batch", "16"]
    assert cli.main([*command, "--cores", "1"]) == 0
    one = fit.memory(*CASES["small, one core"][:2], BOARD, 8, 1)
    printed = capsys.readouterr().out
    assert f"{one.used:,}" in printed
    assert f"{one.heap - one.used:,}" in printed
    assert f"{one.regions['tape'] * one.tapes:,}" in printed
    assert "used by 1 core " in printed
    assert "Mcycles" in printed
    assert cli.main(command) == 0
    assert "used by 2 cores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--board rp2040 --dense", "does not fit a Raspberry Pi Pico"),
        ("--board rp2350", "nobody has measured the memory of a Raspberry Pi Pico 2"),
        ("--board rp2041", "no board 'rp2041'"),
        ("--board rp2040 --precision float32", "a board computes in integers"),
        ("", "Missing option '--board'"),
    ],
)
def test_what_cannot_be_told_is_one_line(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fit", "poisson2d", *options.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


# Networks that benchmarks/calibrate_board.py has not seen: network, widths, estimator, points
STEPS: dict[str, tuple[Network, str, Estimator, int]] = {
    "prs": (Network(2, hidden=96, tt=(8, 12), rank=6), "w8a8g12", Estimator("jet"), 12),
    "laplacian": (Network(2, hidden=96, tt=(8, 12), rank=6), "w8a8g12", Estimator("laplacian"), 12),
    "dense": (Network(2, hidden=40, tt=None, layers=3), "w8a8g12", Estimator("jet"), 16),
    "wide": (Network(2, hidden=100, tt=(10, 10), layers=2), "w8a16g12", Estimator("jet"), 8),
    "without tapes": (Network(2), "w8a8g12", Estimator("jet"), 8),
    "odd-even": (Network(2, hidden=64, tt=(8, 8), layers=2), "w8a8g12", Estimator("orthogonal"), 8),
}


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_the_cycles_that_were_told(name: str, cores: int, emulated: Session) -> None:
    network, widths, estimator, points = STEPS[name]
    half = blocks_of(points)
    device = RemoteDevice(emulated, microbatches=2 * half, cores=cores)
    engine = IntegerEngine(network, Precision.parse(widths), estimator.mode(), device=device)
    solver = Solver(get("poisson2d")(), network, estimator, widths, batch=points, engine=engine)
    solver.step()  # runs twice, to find the scale of its gradients
    before = device.counters()
    solver.step()
    spent = device.counters().since(before)
    count = estimator.count(2)
    memory = fit.memory(engine.program, count, BOARD, 2 * half, cores)
    told = fit.cycles(engine.program, [(half, count), (half, 0)], BOARD, memory)
    assert told is not None
    assert told.busy == pytest.approx(spent.busy_us * BOARD.clock_hz / 1e6, rel=0.1)
    assert told.kernels == pytest.approx(spent.kernel_us * BOARD.clock_hz / 1e6, rel=0.1)
    kept = estimator.kind in STEPLESS  # the same directions each step, which a board is told once
    assert told.messages - kept == spent.frames - 1  # one asked for the counters
    assert told.nbytes < spent.bytes_in + spent.bytes_out  # frames have heads and sums


def test_without_limits_of_memory_kernels_take_what_they_take_on_a_board_that_keeps_every_tape() -> None:
    program, passes = SMALL.program(DEFAULT, "jet"), [(4, 2), (2, 0)]
    memory = fit.memory(program, 2, BOARD, 6, 2)
    assert memory.tapes >= 6 and memory.cores == BOARD.cores
    told = fit.cycles(program, passes, BOARD, memory)
    assert told is not None and fit.kernel_cycles(program, passes, BOARD) == told.kernels
    with pytest.raises(UsageError, match="nobody has measured the cycles"):
        fit.kernel_cycles(program, passes, boards.load("rp2350"))
