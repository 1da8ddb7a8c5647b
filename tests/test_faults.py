"""Whatever happens to the link, the device or the host, a run ends with the bits of an undisturbed one.

The device is the firmware under MicroPython's unix port, or the board's image in the emulator. ``Line`` stands between
it and the host, and does to one byte what cables do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, Outputs, Spec, differing, masked
from ppn import frames, messages

from picopinn import cli
from picopinn.device import addresses
from picopinn.device.base import Device, Rows
from picopinn.device.local import LocalDevice
from picopinn.device.packing import program_bytes
from picopinn.device.remote import RemoteDevice
from picopinn.errors import PicopinnError
from picopinn.link.session import Port, RefusedError, Session
from picopinn.runs import Run
from picopinn.smx import BLOCK

OUT, IN = "to the device", "to the host"
FAULTS = "cut", "flipped", "doubled", "delayed", "closed"
PARTS = 4  # of the offsets, so that workers share them
RETRY = 0.01
NOISE = 3.0  # seconds
DELAY = 3 * RETRY  # the host has asked again when the byte comes


def travelling(case: Case) -> Case:
    """The same with zeros in the columns that pad the inputs: those do not travel."""
    blocks = case.program.stages[0].in_blocks
    column = np.arange(blocks)[:, None] * BLOCK + np.arange(BLOCK * BLOCK) % BLOCK
    keep = column < case.program.inputs
    assert case.along is not None
    return replace(case, points=masked(case.points, keep), along=masked(case.along, keep))


CASE = travelling(Spec(shape="4", layers=2, microbatches=1).case())


# ---- a line that one fault befalls


class Line:
    """Opens ports of a device; the byte ``offset`` in one direction, counted from :meth:`spoil`, meets a fault."""

    def __init__(self, open_port: Callable[[], Port]) -> None:
        self._open = open_port
        self.counts = {OUT: 0, IN: 0}
        self.spoil(OUT, -1, "")

    def __call__(self) -> Port:
        port: Any = self._open()
        port.timeout = RETRY / 4
        return _Port(self, port)

    def spoil(self, direction: str, offset: int, fault: str) -> None:
        """Count from here on."""
        self.counts.update({OUT: 0, IN: 0})
        self.direction, self.offset, self.fault = direction, offset, fault

    def through(self, direction: str, data: bytes) -> tuple[bytes, str, bytes]:
        """What passes at once, the fault that it meets there, and what is behind."""
        at = self.offset - self.counts[direction]
        self.counts[direction] += len(data)
        if not self.fault or direction != self.direction or not 0 <= at < len(data):
            return data, "", b""
        fault, self.fault = self.fault, ""
        before, byte, after = data[:at], data[at], data[at + 1 :]
        if fault == "cut":
            return before + after, fault, b""
        if fault == "flipped":
            mask = byte if self.offset % 3 == 0 and byte else 1 << self.offset % 8  # some become 0
            return before + bytes([byte ^ mask]) + after, fault, b""
        if fault == "doubled":
            return before + bytes([byte, byte]) + after, fault, b""
        return before, fault, bytes([byte]) + after


class _Port:
    """A port of a line; what is delayed waits in ``_held`` until its time has come, and all behind it."""

    def __init__(self, line: Line, port: Port) -> None:
        self._line, self._port = line, port
        self._held = {OUT: b"", IN: b""}
        self._until = 0.0
        self._ready = b""  # for the host
        self._broken = False

    def _pass(self, direction: str, data: bytes) -> bytes:
        if self._held[direction]:
            self._held[direction] += data
            self._line.counts[direction] += len(data)
            return b""
        passed, fault, behind = self._line.through(direction, data)
        if fault == "delayed":
            self._held[direction], self._until = behind, time.monotonic() + DELAY
        self._broken = self._broken or fault == "closed"
        return passed

    def _release(self) -> None:
        if time.monotonic() >= self._until:
            out, self._held[OUT] = self._held[OUT], b""
            if out:
                self._port.write(out)
            self._ready += self._held[IN]
            self._held[IN] = b""

    def _look(self) -> None:
        if self._broken and not self._ready:
            raise OSError(errno.EIO, "the link broke")

    @property
    def in_waiting(self) -> int:
        self._look()
        self._release()
        return len(self._ready) or self._port.in_waiting

    def read(self, size: int = 1) -> bytes:
        self._look()
        self._release()
        if not self._ready:
            self._ready += self._pass(IN, self._port.read(size))
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def write(self, data: bytes) -> int:
        self._look()
        self._release()
        passed = self._pass(OUT, data)
        if passed:
            self._port.write(passed)
        self._look()
        return len(data)

    def reset_input_buffer(self) -> None:
        self._ready = b""
        self._port.reset_input_buffer()

    def close(self) -> None:
        self._port.close()


# ---- a step


def step(device: Device, case: Case = CASE) -> Outputs:
    """A step as the solver takes one: weights, points inside and on the edge, and both backward."""
    edge = Rows(case.points.mantissas[::-1].copy(), case.points.exponents[::-1].copy())
    at_edge = Rows(case.cotangents.mantissas[:, :1].copy(), case.cotangents.exponents[:, :1].copy())
    along = replace(case.along) if case.along else None  # another object: directions are sent anew
    device.load(case.weights)
    inside, outside = device.forward(case.points, along, True), device.forward(edge, None, True)
    device.begin(case.scaling, case.seed, case.step)
    device.backward(case.points, along, case.cotangents, 0)
    device.backward(edge, None, at_edge, len(case.points.exponents))
    gradients = device.gradients()
    return {
        "inside": inside.mantissas,
        "inside exponents": inside.exponents,
        "outside": outside.mantissas,
        "gradients": gradients.values.mantissas,
        "gradient exponents": gradients.values.exponents,
        "peaks": gradients.peaks,
    }


def local(case: Case = CASE) -> Outputs:
    device = LocalDevice()
    device.configure(case.program, case.directions)
    return step(device, case)


WANTED = local()


def remote(open_port: Callable[[], Port], patience: float = 5.0, **options: Any) -> RemoteDevice:
    """A device at the end of a port, impatient so that faults cost little time."""
    session = Session(open_port, "the device", retry=RETRY, patience=patience)
    device = RemoteDevice(session, microbatches=2, **options)
    device.configure(CASE.program, CASE.directions)
    return device


@pytest.fixture(scope="module")
def unix(micropython: Path) -> Iterator[tuple[Line, RemoteDevice]]:
    """The unix port at the end of a line."""
    line = Line(addresses.open_session("unix").open_port)
    device = remote(line)
    yield line, device
    device.close()


@pytest.fixture(scope="module")
def lengths(unix: tuple[Line, RemoteDevice]) -> dict[str, int]:
    """Bytes of an undisturbed step each way: the least of some, since answers to earlier repeats may still arrive."""
    line, device = unix
    device.session.retry = 5.0
    counts = []
    for _ in range(5):
        line.spoil(OUT, -1, "")
        assert differing(step(device), WANTED) == []
        counts.append(dict(line.counts))
    device.session.retry = RETRY
    return {way: min(count[way] for count in counts) for way in (OUT, IN)}


def test_a_step_is_as_long_as_these_tests_think(lengths: dict[str, int]) -> None:
    assert all(300 < length < 1000 for length in lengths.values()), lengths


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("direction", [OUT, IN])
def test_every_byte_of_a_step_may_be_spoilt(
    direction: str, fault: str, part: int, unix: tuple[Line, RemoteDevice], lengths: dict[str, int]
) -> None:
    line, device = unix
    for offset in range(part, lengths[direction], PARTS):
        line.spoil(direction, offset, fault)
        assert differing(step(device), WANTED) == [], offset
        assert not line.fault, f"nothing came to byte {offset}"


# ---- noise


def test_noise_and_strange_requests_for_a_while(micropython: Path) -> None:
    """Bytes of any kind, requests of any kind with any payload: INFO is answered, a step has its bits."""
    started: Any = addresses.open_session("unix").open_port
    device, rng = remote(started), random.Random(1)
    process, until = started.board._process, time.monotonic() + NOISE
    rounds = refused = 0
    while time.monotonic() < until or rounds < 200:
        rounds += 1
        noise = rng.randbytes(rng.randrange(1, 700)).replace(b"\r", b"\n")  # \r\x03 outside a frame is Ctrl-C
        device.session._port.write(noise + b"\0")  # type: ignore[union-attr]
        for _ in range(5):
            try:
                device.session.call(*_strange_request(rng))
            except RefusedError:
                refused += 1
        if rounds % 50 == 0:
            assert json.loads(device.session.call(messages.INFO))["wire"] == frames.VERSION
            device.configure(CASE.program, CASE.directions)
            assert differing(step(device), WANTED) == []
    assert refused > rounds  # requests came through
    assert process.poll() is None and started.board._process is process  # it never fell
    device.close()


def _strange_request(rng: random.Random) -> tuple[int, bytes]:
    kinds = [kind for kind in range(256) if kind not in (messages.INFO, messages.LEAVE)]
    kind = rng.choice(kinds if rng.random() < 0.1 else range(messages.CONFIGURE, messages.LEAVE))
    payload = rng.randbytes(rng.choice([0, 4, 8, 12, rng.randrange(messages.PAYLOAD)]))
    if kind == messages.CONFIGURE and rng.random() < 0.8:
        program = bytearray(program_bytes(CASE.program, CASE.directions))
        for _ in range(rng.choice([0, 0, 1, 2])):
            program[rng.randrange(len(program))] = rng.choice([0, 1, 4, 255, rng.randrange(256)])
        payload = rng.choice([b"\0\0\0\0", b"\1\0\1\0", b"\xff\xff\xff\xff"]) + program
    if kind in (messages.FORWARD, messages.BACKWARD) and rng.random() < 0.8:
        count = rng.randrange(4)
        length = count * (17 if kind == messages.FORWARD else 17 + 5 * 9)  # of CASE
        payload = bytes([rng.choice([0, 2]), 0, count, 0]) + rng.randbytes(4 + length)
    return kind, payload


# ---- devices that end


def test_a_device_that_is_killed_and_starts_anew(micropython: Path) -> None:
    started: Any = addresses.open_session("unix").open_port
    device, rng = remote(started), random.Random(2)
    for _ in range(12):
        victim = started.board._process
        killer = threading.Timer(rng.random() * 0.01, victim.kill)
        killer.start()
        assert differing(step(device), WANTED) == []
        killer.join()
        victim.wait()  # perhaps after the step
    assert differing(step(device), WANTED) == []
    device.close()


def test_a_device_that_a_person_stops(micropython: Path) -> None:
    """Ctrl-C ends the service; the next step starts it again."""
    started: Any = addresses.open_session("unix").open_port
    device = remote(started)
    first = started.board._process
    device.session._port.write(b"\r\3")  # type: ignore[union-attr]
    first.wait(10)
    assert first.returncode == 0
    assert differing(step(device), WANTED) == []
    assert started.board._process is not first
    device.close()


def test_a_device_that_fails_says_why(micropython: Path) -> None:
    started: Any = addresses.open_session("unix").open_port
    device = remote(started)
    os.kill(started.board._process.pid, signal.SIGSEGV)
    started.board._process.wait()
    with pytest.raises(PicopinnError, match="ended by itself"):
        step(device)


def test_a_board_that_is_reset_at_any_moment(micropython: Path, bare_image: Path) -> None:
    started: Any = addresses.open_session("emulated:rp2040").open_port
    session = Session(started, "the board", patience=20.0)
    device, rng = RemoteDevice(session, microbatches=2), random.Random(3)
    device.configure(CASE.program, CASE.directions)
    before = time.monotonic()
    assert differing(step(device), WANTED) == []
    lasts = time.monotonic() - before
    for _ in range(4):
        resetter = threading.Timer(rng.random() * lasts, started.board.reset)
        resetter.start()
        assert differing(step(device), WANTED) == []
        resetter.join()
    assert differing(step(device), WANTED) == []
    device.close()
    started.board.check()


# ---- whole runs

RUN = "train poisson2d --steps 200 --hidden 8 --layers 2 --dense --batch 8 --threads 1 --quiet"
HASTY = """
import sys
from picopinn import cli, train

train.CHECKPOINT_SECONDS = 0.1
sys.exit(cli.main(sys.argv[1:]))
"""


def weights(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_sha256"])


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a run that nothing befell."""
    run = tmp_path_factory.mktemp("known") / "run"
    assert cli.main([*RUN.split(), "--run", str(run)]) == 0
    return weights(run)


def test_a_host_that_is_killed_continues_its_run(micropython: Path, known: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", HASTY, *RUN.split(), "--device", "unix", "--run", str(run)]
    host = subprocess.Popen(command, stderr=subprocess.PIPE)
    steps = 0
    while host.poll() is None and steps == 0:  # until the first checkpoint after the start
        time.sleep(0.01)
        with contextlib.suppress(PicopinnError, OSError):
            steps = Run.open(run).checkpoint.step
    host.kill()
    said = host.communicate()[1].decode()
    assert host.returncode == -signal.SIGKILL and 0 < steps < 200, said
    assert cli.main(["train", "--resume", str(run), "--device", "unix", "--quiet"]) == 0
    assert weights(run) == known


@pytest.mark.parametrize("offset", [20_001, 40_002])
def test_a_device_that_is_gone_for_good(
    offset: int,
    micropython: Path,
    known: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that says what to do, and doing it gives the weights."""

    def opened(address: str, **options: Any) -> RemoteDevice:
        line = Line(addresses.open_session(address).open_port)
        line.spoil(OUT, offset, "closed")

        def once() -> Port:
            if line.fault:
                return line()
            raise FileNotFoundError(errno.ENOENT, "no such port")

        return RemoteDevice(Session(once, address), patience=0.3, **options)

    monkeypatch.setattr(cli, "open_device", opened)
    run = tmp_path / "run"
    assert cli.main([*RUN.split(), "--device", "unix", "--run", str(run)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: unix ") and f"picopinn train --resume {run}" in lines[0]
    assert 0 < Run.open(run).checkpoint.step < 200
    assert cli.main(["train", "--resume", str(run), "--quiet"]) == 0
    assert weights(run) == known
