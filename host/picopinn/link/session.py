"""A session with a device: requests out, replies back, each executed once whatever the stream does to frames."""

from __future__ import annotations

import errno
import json
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from ppn import frames, messages

from ..errors import PicopinnError, UsageError
from ..kernels import NUMBERS

try:
    import termios

    _GONE: tuple[type[Exception], ...] = (OSError, termios.error)  # pyserial lets the second through
except ImportError:  # Windows
    _GONE = (OSError,)

RETRY = 0.5  # seconds without any answer after which a request is sent again, at first; it doubles
LONGEST_RETRY = 4.0
PATIENCE = 30.0  # seconds without any answer after which a device counts as gone
RESTART = b"\r\x03\x03\x02\x04"  # leaves the service, and at MicroPython's prompt, a raw one too, starts it again
_PACKET = 64  # bytes of full-speed USB
_LONGEST_FRAME = 1 << 20  # more bytes without a 0 are no frame

Request = tuple[int, bytes]


class Port(Protocol):
    """A byte stream; what pyserial offers. Methods raise OSError when the device is gone."""

    @property
    def in_waiting(self) -> int:
        """Bytes that a read answers at once."""

    def read(self, size: int = 1) -> bytes:
        """At most ``size`` bytes; fewer, or none, after the port's own timeout."""

    def write(self, data: bytes) -> int | None:
        """Send all bytes."""

    def reset_input_buffer(self) -> None:
        """Forget what came in."""

    def close(self) -> None:
        """Let go of the stream."""


class LinkLostError(PicopinnError):
    """The stream broke, or nothing answers on it."""


class RestartedError(PicopinnError):
    """The device knows nothing of this session any more: what it held is to be sent again."""


class RefusedError(UsageError):
    """The device cannot do what was asked; the text is its own."""


@dataclass
class _Sent:
    """A request under way."""

    kind: int
    sequence: int
    frame: bytes
    reply: bytes | None = None


@dataclass
class Statistics:
    """What went over the stream so far."""

    bytes_out: int = 0
    bytes_in: int = 0
    repeated: int = 0  # requests that were sent again
    damaged: int = 0  # frames that arrived damaged


@dataclass
class Session:
    """Exchanges messages with one device.

    Args:
        open_port: opens the stream; raises OSError while the device is not there.
        name: of the device, for messages to a person.
        retry, patience: seconds; see :data:`RETRY` and :data:`PATIENCE`.

    Attributes:
        info: what the device last said of itself; empty before :meth:`connect`.
    """

    open_port: Callable[[], Port]
    name: str
    retry: float = RETRY
    patience: float = PATIENCE
    info: dict[str, Any] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics)
    _port: Port | None = None
    _received: bytearray = field(default_factory=bytearray)
    _sequence: int = 0

    # ---- opening and closing

    def connect(self) -> dict[str, Any]:
        """Open the stream anew, get in step with the device and learn what it is.

        Raises:
            LinkLostError: nothing answers.
            PicopinnError: a device that speaks another version.
        """
        self.close()
        try:
            self._port = self.open_port()
            self._port.reset_input_buffer()
            self._received.clear()
            self.info = self._introduce()
        except _GONE as error:
            self.close()
            there = error.args[:1] != (errno.ENOENT,)
            raise LinkLostError(
                f"{self.name}: {error}: see that it is connected" if there else f"{self.name} is not there: plug it in"
            ) from error
        _check_version(self.name, self.info)
        return self.info

    def _introduce(self) -> dict[str, Any]:
        """INFO until it is answered; from a device that stays silent, after it was told to start its service."""
        deadline = time.monotonic() + self.patience
        wake = (b"\0", b"\0", RESTART + b"\0")
        for attempt in range(1_000_000):
            self._sequence = int.from_bytes(os.urandom(2), "little")  # no reply of an earlier session fits it
            self._write(wake[attempt % len(wake)])
            request = self._send(messages.INFO, b"")
            try:
                flight = deque([request])
                info: dict[str, Any] = json.loads(self._next_reply(flight, min(deadline, time.monotonic() + 2)))
                return info
            except LinkLostError:
                if time.monotonic() >= deadline:
                    break
            except RestartedError:  # an answer to something older
                continue
        raise LinkLostError(
            f"{self.name} does not answer: is picopinn on it? `invoke flash --board rp2040` puts it there"
        )

    def close(self) -> None:
        """Let go of the stream."""
        port, self._port = self._port, None
        if port is not None:
            with suppress(OSError):  # it may be gone already
                port.close()

    # ---- requests

    def call(self, kind: int, payload: bytes = b"") -> bytes:
        """The reply's payload; see :meth:`stream`."""
        return next(self.stream([(kind, payload)]))

    def stream(self, requests: Iterable[Request]) -> Iterator[bytes]:
        """Reply payloads in order, as many requests under way at a time as the device allows.

        Raises:
            LinkLostError: the stream broke, or no answer for ``patience`` seconds.
            RestartedError: the device lost its session.
            RefusedError: the device says why it cannot.
        """
        source, flight = iter(requests), deque[_Sent]()
        window = int(self.info.get("window", 1))
        try:
            while True:
                while len(flight) < window and (request := next(source, None)) is not None:
                    flight.append(self._send(*request))
                if not flight:
                    return
                yield self._next_reply(flight, time.monotonic() + self.patience)
        except OSError as error:
            raise LinkLostError(f"{self.name}: {error}") from error

    def _send(self, kind: int, payload: bytes) -> _Sent:
        self._sequence = (self._sequence + 1) & 0xFFFF
        request = _Sent(kind, self._sequence, frames.seal(kind, self._sequence, payload))
        self._write(request.frame)
        return request

    def _next_reply(self, flight: deque[_Sent], deadline: float) -> bytes:
        """The reply to the first of ``flight``, which is taken out."""
        pause = self.retry
        again = time.monotonic() + pause
        while flight[0].reply is None:
            frame = self._read_frame(min(again, deadline))
            if frame is not None:
                if self._take(flight, frame):
                    pause = self.retry
                    again = time.monotonic() + pause
                continue
            if time.monotonic() >= deadline:
                raise LinkLostError(f"{self.name} does not answer any more: see that it is connected")
            self._repeat(flight, 0)
            pause = min(2 * pause, LONGEST_RETRY)
            again = time.monotonic() + pause
        reply = flight.popleft().reply
        assert reply is not None
        return reply

    def _take(self, flight: deque[_Sent], frame: bytes) -> bool:
        """Use one frame; answers whether it brought anything new."""
        message = frames.unseal(frame)
        if message is None or message[0] != frames.VERSION:
            self.statistics.damaged += 1  # text of a prompt, too
            return False
        _, kind, sequence, payload = message
        if kind == messages.UNKNOWN:
            if flight[0].kind == messages.INFO:
                return False
            raise RestartedError(f"{self.name} restarted")
        if kind == messages.DAMAGED:
            self._repeat_from(flight, struct.unpack_from(messages.SEQUENCE_HEAD, payload)[0])
            return False
        place = next((k for k, sent in enumerate(flight) if sent.sequence == sequence), None)
        if place is None or flight[place].reply is not None:
            return False  # an answer that was had before
        if kind == messages.FAILED:
            raise RefusedError(f"{self.name}: {payload.decode(errors='replace')}")
        if kind != flight[place].kind | messages.REPLY:
            return False
        flight[place].reply = payload
        if place > 0 and flight[0].reply is None:
            self._repeat(flight, 0)  # the device keeps the answers in between
        return True

    def _repeat_from(self, flight: deque[_Sent], due: int) -> None:
        """Send again from the request that the device waits for."""
        if flight[0].kind == messages.INFO:
            self._repeat(flight, 0)
            return
        ahead = (due - flight[0].sequence) & 0xFFFF
        if ahead == len(flight):
            return  # it had all of them; the damaged frame was a copy
        if ahead > len(flight):
            raise RestartedError(f"{self.name} is out of step")
        self._repeat(flight, ahead)

    def _repeat(self, flight: deque[_Sent], start: int) -> None:
        for sent in list(flight)[start:]:
            if sent.reply is None:
                self.statistics.repeated += 1
                self._write(b"\0" + sent.frame)  # ends one that arrived without its end

    # ---- bytes

    def _write(self, content: bytes) -> None:
        if self._port is None:
            raise LinkLostError(f"{self.name} is closed")
        if len(content) % _PACKET == 0:
            content += b"\0"  # means nothing, and ends a transfer for a USB that would wait for more
        self.statistics.bytes_out += len(content)
        self._port.write(content)

    def _read_frame(self, deadline: float) -> bytes | None:
        """The bytes up to the next 0, or None at the deadline."""
        if self._port is None:
            raise LinkLostError(f"{self.name} is closed")
        while (end := self._received.find(b"\0")) < 0:
            if time.monotonic() >= deadline:
                return None
            content = self._port.read(max(1, self._port.in_waiting))
            self.statistics.bytes_in += len(content)
            self._received += content
            if len(self._received) > _LONGEST_FRAME:
                self._received.clear()
        frame = bytes(self._received[:end])
        del self._received[: end + 1]
        return frame


def _check_version(name: str, info: dict[str, Any]) -> None:
    expected = {"wire": frames.VERSION, "numbers": NUMBERS}
    for key, version in expected.items():
        if info.get(key) != version:
            raise PicopinnError(
                f"{name} has version {info.get(key)} of the {key}, this computer {version}: "
                "flash it again, `invoke flash --board rp2040`"
            )
