"""Whatever happens to the link, the device or the host, a run ends with the bits of an undisturbed one.

The device is the firmware under MicroPython's unix port, or the board's image in the emulator. ``Line`` stands between
it and the host, and does to one byte what cables do.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, Outputs, Spec, differing, masked

from picopinn.device import addresses
from picopinn.device.base import Device, Rows
from picopinn.device.local import LocalDevice
from picopinn.device.remote import RemoteDevice
from picopinn.link.session import Port, Session
from picopinn.smx import BLOCK

OUT, IN = "to the device", "to the host"
FAULTS = "cut", "flipped", "doubled", "delayed", "closed"
PARTS = 4  # of the offsets, so that workers share them
RETRY = 0.01
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
    """Bytes of an undisturbed step each way."""
    line, device = unix
    device.session.retry = 5.0
    line.spoil(OUT, -1, "")
    assert differing(step(device), WANTED) == []
    device.session.retry = RETRY
    return dict(line.counts)


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
