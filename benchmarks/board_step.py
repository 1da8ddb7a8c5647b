"""What a training step costs a Raspberry Pi Pico, in the emulator: cycles, bytes, what the link adds, memory, flashing.

The step is poisson2d's, 2-64-64-64-1 as TT 8x8 of rank 8, 16 points inside and 16 on the boundary, K = 2. Cycles are
the emulator's, which run at 125 MHz. Its link is faster or slower than USB as the computer is busy, so the wire's time
is computed: full-speed USB carries at most 19 bulk packets of 64 bytes in a frame of 1 ms (USB 2.0, 5.8.4), 1.2 MB/s;
1.0 MB/s is taken, about 16 of them.

    pip install '.[board,emulator]' && invoke setup && python benchmarks/board_step.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass

from mpremote.transport_serial import SerialTransport
from ppn import frames, messages

from picopinn import Network, Precision, boards
from picopinn.device.addresses import emulated_board, open_session
from picopinn.device.remote import Counters, RemoteDevice
from picopinn.link.ports import open_port
from picopinn.link.session import Session
from picopinn.settings import Settings

BOARD = boards.load("rp2040")
WIRE = 1.0e6  # bytes a second
STEP = Settings("poisson2d", hidden=64, tt=(8, 8), rank=8, batch=16)
LARGE = Network(2, hidden=256, tt=(16, 16), rank=8)
STEPS = 4
LONG, SHORT = 200, 8  # payloads whose difference tells the cost of a byte; both fit the 256 bytes that TinyUSB holds

# Serves frames by hand. A frame lies with TinyUSB, whole, before it is taken, and so does an answer until it is sent.
# A frame may hold Ctrl-C, which must not interrupt when it comes before the first read.
MEASURE = """
import io, micropython, ppn_usb
from time import ticks_ms, ticks_diff, ticks_us
from ppn import native
session = bytearray(native.session_bytes(2048))
native.session_open(session, 2048)
def serve():
    return native.serve(session, None, ppn_usb.stream, ppn_usb.stream, native.AT_ONCE, ticks_us)
def reply(writer, length):
    start = ticks_us()
    native.reply(session, writer, 0x8C, length)
    return ticks_diff(ticks_us(), start)
micropython.kbd_intr(-1)
print('ready')
serve()
reply(ppn_usb.stream, 0)
for _ in range({count}):
    start = ticks_ms()
    while ticks_diff(ticks_ms(), start) < 200: pass
    start = ticks_us()
    length = serve() >> 8
    taken = ticks_diff(ticks_us(), start)
    sealed = reply(io.BytesIO(bytearray(300)), length)
    print('told', length, taken, sealed, reply(ppn_usb.stream, length))
ppn_usb.restore()
micropython.kbd_intr(3)
"""


@dataclass(frozen=True)
class PerByte:
    """Cycles of one byte of a message, and of a message itself, that a board takes, seals and hands to its USB."""

    take: float
    seal: float
    send: float
    message: float


def counted(cores: int) -> Counters:
    """What the board counts in one step, on average."""
    session = open_session("emulated:rp2040")
    device = RemoteDevice(session, microbatches=sum(STEP.microbatches()), cores=cores)
    solver = STEP.solver(1, device)
    solver.step()  # runs twice, to find the scale of its gradients
    before = device.counters()
    for _ in range(STEPS):
        solver.step()
    spent = device.counters().since(before)
    device.close()
    totals = vars(spent) | {"frames": spent.frames - 1}  # one asked for the counters
    return Counters(**{name: round(count / STEPS) for name, count in totals.items()})


def per_byte() -> PerByte:
    """Measured by a script on the board, in place of its service."""
    board = emulated_board(BOARD.name)
    sizes = [SHORT, LONG] * 3
    told: dict[int, list[list[int]]] = {SHORT: [], LONG: []}
    session = Session(lambda: open_port(board.port), BOARD.title)
    session.connect()
    session.call(messages.LEAVE)
    session.close()
    with closing(SerialTransport(board.port, timeout=20)) as link:
        link.enter_raw_repl(soft_reset=False)
        link.exec_raw_no_follow(MEASURE.format(count=len(sizes)))
        link.read_until(1, b"ready\r\n", timeout=20)
        link.serial.write(frames.seal(messages.INFO, 0, b""))
        link.read_until(1, b"\0", timeout=20)
        for number, size in enumerate(sizes, 1):
            link.serial.write(frames.seal(messages.ECHO, number, bytes(range(1, size + 1))))
            line = link.read_until(1, b"\r\n", timeout=20).rpartition(b"told ")[2]
            length, *times = map(int, line.split())
            told[length].append(times)
    board.close()
    clock = BOARD.clock_hz / 1e6
    short, long = ([min(column) * clock for column in zip(*told[size], strict=True)] for size in (SHORT, LONG))
    take, seal, send = ((b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True))
    return PerByte(take, seal, send - seal, short[0] + short[2] - (take + send) * SHORT)


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


def print_link(spent: Counters, byte: PerByte) -> None:
    """The link's part of a step on a real board; bytes are taken while they arrive, and sent while others leave."""
    mega, wire = BOARD.clock_hz / 1e12, BOARD.clock_hz / WIRE
    kernels = spent.kernel_us * mega
    inward, outward = spent.bytes_in / 1e6, spent.bytes_out / 1e6
    arrive, seal, leave = inward * max(byte.take, wire), outward * byte.seal, outward * max(byte.send, wire)
    rest = spent.frames * byte.message / 1e6
    beside = arrive + seal + leave + rest
    print(f"  take {byte.take:.0f}, seal {byte.seal:.0f}, send {byte.send:.0f} cycles a byte; wire {wire:.0f}")
    print(f"  arriving {arrive:.2f}, sealing {seal:.2f}, leaving {leave:.2f}, messages {rest:.2f} Mcycles")
    print(f"  {beside:.2f} beside {kernels:.2f} Mcycles in kernels: {beside / (kernels + beside):.1%} (bar 15 %)")


def main() -> None:
    argparse.ArgumentParser(description=str(__doc__).partition("\n")[0]).parse_args()
    mega = BOARD.clock_hz / 1e12
    one, two = counted(1), counted(2)
    for cores, spent in ((1, one), (2, two)):
        kernels, busy = spent.kernel_us * mega, spent.busy_us * mega
        print(f"step, {cores} core{'s' if cores > 1 else ' '}   {kernels:.2f} Mcycles in kernels, {busy:.2f} busy")
    print(f"two cores       {one.kernel_us / two.kernel_us:.2f}x in kernels (bar 1.8x)")
    print(f"messages        {one.frames} each way, {one.bytes_in:,} bytes in, {one.bytes_out:,} out")
    byte = per_byte()
    for cores, spent in ((1, one), (2, two)):
        print(f"link at {WIRE / 1e6:.1f} MB/s, {cores} core{'s' if cores > 1 else ''}")
        print_link(spent, byte)
    print(f"heap left       {heap_left():,} bytes with 2-256-256-256-1 TT 16x16 rank 8, K = 2 (bar 32,768)")
    module = boards.firmware_folder() / "prebuilt" / f"native-{BOARD.arch}.mpy"
    print(f"native module   {module.stat().st_size:,} bytes")
    print(f"flash, the same {flash_seconds():.1f} s (bar 3 s)")


if __name__ == "__main__":
    main()
