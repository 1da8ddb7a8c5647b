"""What a training step costs a Raspberry Pi Pico, in the emulator: cycles, bytes, what the link adds, memory, flashing.

The step is poisson2d's, 2-64-64-64-1 as TT 8x8 of rank 8, 16 points inside and 16 on the boundary, K = 2, by jets and
by their sum. Cycles are the emulator's, which run at 125 MHz. Its USB is as slow as a real one (paced_board.py): full
speed carries at most 19 bulk packets of 64 bytes in a frame of 1 ms (USB 2.0, 5.8.4), so a packet takes 53 us once the
board is ready for it. The computer takes no time. The link's share is that of the step's time, from its first packet to
its last, in which no core is in a kernel; interrupts of USB that come in the midst of kernels count as theirs.

    pip install '.[board,emulator]' && invoke setup && python benchmarks/board_step.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace

from paced_board import PacedBoard
from ppn import messages

from picopinn import Network, Precision, boards
from picopinn.device.addresses import emulated_board, open_session
from picopinn.device.remote import Counters, RemoteDevice
from picopinn.estimators import STEPLESS, Kind
from picopinn.link.session import Session
from picopinn.settings import Settings

BOARD = boards.load("rp2040")
PACKET_US = 53
STEP = Settings("poisson2d", hidden=64, tt=(8, 8), rank=8, batch=16)
LARGE = Network(2, hidden=256, tt=(16, 16), rank=8)
STEPS = 4
ECHOES = 20


@dataclass(frozen=True)
class Spent:
    """In one step, on average: megacycles in all, not waiting, and in kernels; messages each way, bytes."""

    cycles: float
    busy: float
    kernels: float
    messages: float
    bytes_in: float
    bytes_out: float


def paced(step: Settings, cores: int) -> tuple[Spent, float]:
    """A step, and megabytes a second that go out and come back at once in the longest messages."""
    port = PacedBoard(PACKET_US)
    session = Session(lambda: port, BOARD.title, retry=60)
    device = RemoteDevice(session, microbatches=sum(step.microbatches()), cores=cores)
    solver = step.solver(1, device)
    solver.step()  # runs twice, to find the scale of its gradients
    before, start = device.counters(), port.microseconds
    for _ in range(STEPS):
        solver.step()
    elapsed = port.microseconds - start
    return _average(device.counters().since(before), elapsed), _rate(session, port)


def _average(spent: Counters, elapsed: float) -> Spent:
    mega = BOARD.clock_hz / 1e12 / STEPS
    frames = spent.frames - 1  # one asked for the counters
    return Spent(
        elapsed * mega,
        spent.busy_us * mega,
        spent.kernel_us * mega,
        frames / STEPS,
        spent.bytes_in / STEPS,
        spent.bytes_out / STEPS,
    )


def _rate(session: Session, port: PacedBoard) -> float:
    payload = bytes(range(1, 256)) * (messages.PAYLOAD // 256)
    start = port.microseconds
    for _ in session.stream((messages.ECHO, payload) for _ in range(ECHOES)):
        pass
    return ECHOES * len(payload) / (port.microseconds - start)


def flash_seconds() -> float:
    """`picopinn flash` onto a board where nothing changed, median of three."""
    board = emulated_board(BOARD.name)
    command = [sys.executable, "-m", "picopinn.cli", "flash", "--board", BOARD.name, "--port", board.port]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    board.close()
    return statistics.median(seconds)


def heap_left() -> int:
    session = open_session("emulated:rp2040")
    device = RemoteDevice(session)
    device.configure(LARGE.program(Precision(), "jet"), 2)
    assert device.memory is not None
    device.close()
    return device.memory.left


def print_step(kind: Kind) -> float:
    """A step's costs by one estimator, on one core and on both; answers the link's rate."""
    step = replace(STEP, estimator=kind)
    (one, rate), (two, _) = paced(step, 1), paced(step, 2)
    print(f"by {kind}")
    for cores, spent in (("one core ", one), ("two cores", two)):
        share = 1 - spent.kernels / spent.cycles
        print(
            f"step, {cores} {spent.cycles:.2f} Mcycles, {spent.kernels:.2f} in kernels; the link {share:.1%} (bar 15 %)"
        )
    print(f"two cores       {one.cycles / two.cycles:.2f}x, {one.kernels / two.kernels:.2f}x in kernels (bar 1.8x)")
    print(f"messages        {one.messages:.0f} each way, {one.bytes_in:,.0f} bytes in, {one.bytes_out:,.0f} out")
    return rate


def main() -> None:
    argparse.ArgumentParser(description=str(__doc__).partition("\n")[0]).parse_args()
    for kind in STEPLESS:
        rate = print_step(kind)
    print(f"echo            {rate:.2f} MB/s out and back at once")
    print(f"heap left       {heap_left():,} bytes with 2-256-256-256-1 TT 16x16 rank 8, K = 2 (bar 32,768)")
    module = boards.firmware_folder() / "prebuilt" / f"native-{BOARD.arch}.mpy"
    print(f"native module   {module.stat().st_size:,} bytes")
    print(f"flash, the same {flash_seconds():.1f} s (bar 3 s)")


if __name__ == "__main__":
    main()
