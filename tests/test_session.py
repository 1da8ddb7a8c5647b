"""The host's half of the link against a device written here: each request once, whatever becomes of the frames.

No tools are needed and no time passes: the clock is the test's, and a read of an empty stream moves it on.
"""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import Outputs, Spec, differing
from hypothesis import given, settings
from hypothesis import strategies as st
from ppn import frames, messages

from picopinn.device import remote
from picopinn.device.base import Rows
from picopinn.device.remote import RemoteDevice
from picopinn.errors import PicopinnError, UsageError
from picopinn.kernels import lib
from picopinn.link import session as module
from picopinn.link.session import LinkLostError, RefusedError, RestartedError, Session

INFO = {"wire": frames.VERSION, "numbers": int(lib.PPN_VERSION), "payload": 256, "window": 2}
ECHO = 0x42  # a kind of request that the device answers with its payload
TICK = 0.02  # seconds that a read of nothing takes


class Clock:
    """Stands for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for user in (module, remote):
        monkeypatch.setattr(user, "time", made)
    return made


class Refused(Exception):  # noqa: N818
    """The device answers FAILED."""


Answer = Callable[[int, bytes], bytes]


class Board:
    """A device as docs/spec.md W2 describes it."""

    def __init__(self, answer: Answer | None = None, info: dict[str, Any] | None = None) -> None:
        self.answer = answer or (lambda kind, payload: payload)
        self.info = INFO if info is None else info
        self.executed: list[tuple[int, bytes]] = []
        self.reset()

    def reset(self) -> None:
        """It forgets the session."""
        self.due: int | None = None
        self.kept: dict[int, bytes] = {}

    def take(self, frame: bytes) -> bytes:
        """A frame without its 0; what it sends."""
        message = frames.unseal(frame)
        if message is None or message[0] != frames.VERSION:
            return self._notice()
        _, kind, sequence, payload = message
        if kind == messages.INFO:
            self.due, self.kept = sequence, {}
        if sequence in self.kept:
            return self.kept[sequence]
        if sequence != self.due:
            return self._notice()
        self.executed.append((kind, payload))
        try:
            said = kind | messages.REPLY, self._do(kind, payload)
        except Refused as reason:
            said = messages.FAILED, str(reason).encode()
        self.due = (sequence + 1) & 0xFFFF
        self.kept[sequence] = frames.seal(said[0], sequence, said[1])
        for old in list(self.kept)[: -self.info.get("window", 1)]:
            del self.kept[old]
        return self.kept[sequence]

    def _do(self, kind: int, payload: bytes) -> bytes:
        return json.dumps(self.info).encode() if kind == messages.INFO else self.answer(kind, payload)

    def _notice(self) -> bytes:
        if self.due is None:
            return frames.seal(messages.UNKNOWN, 0, struct.pack("<H", 0))
        return frames.seal(messages.DAMAGED, 0, struct.pack("<H", self.due))


Fault = Callable[[bytes], bytes]
FAULTS: dict[str, Fault] = {
    "lost": lambda frame: b"",
    "cut": lambda frame: frame[: len(frame) // 2],  # its 0, too: the next frame goes with it
    "short": lambda frame: frame[: len(frame) // 2] + b"\0",
    "flipped": lambda frame: bytes([frame[0] ^ 1]) + frame[1:],
    "twice": lambda frame: frame + frame,
    "parted": lambda frame: frame[:5] + b"\0" + frame[5:],
    "behind noise": lambda frame: b"Traceback\r\n" + frame,
}


class Stream:
    """A port with a board at its end; the n-th frame of a direction may meet a fault."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self.board, self.clock = board, clock
        self.to_board: dict[int, Fault] = {}
        self.to_host: dict[int, Fault] = {}
        self.waiting = b""  # for the host
        self.written: list[tuple[float, bytes]] = []
        self.unread = self.most_unread = 0
        self._arrived = b""
        self._numbers = [0, 0]

    def begin(self) -> None:
        """Count frames from here on."""
        self._numbers = [0, 0]
        self.written.clear()
        self.board.executed.clear()

    def _through(self, direction: int, faults: dict[int, Fault], frame: bytes) -> bytes:
        number = self._numbers[direction]
        self._numbers[direction] += 1
        return faults.get(number, lambda same: same)(frame)

    # ---- the port

    @property
    def in_waiting(self) -> int:
        return len(self.waiting)

    def read(self, size: int = 1) -> bytes:
        self.unread = 0
        if not self.waiting:
            self.clock.now += TICK
        given, self.waiting = self.waiting[:size], self.waiting[size:]
        return given

    def write(self, data: bytes) -> int:
        self.written.append((self.clock.now, data))
        self.unread += 1
        self.most_unread = max(self.most_unread, self.unread)
        self._arrived += self._through(0, self.to_board, data) if len(data) > 1 else data
        *whole, self._arrived = self._arrived.split(b"\0")
        for frame in whole:
            if frame and (sent := self.board.take(frame)):
                self.waiting += self._through(1, self.to_host, sent)
        return len(data)

    def reset_input_buffer(self) -> None:
        self.waiting = b""

    def close(self) -> None:
        pass


@pytest.fixture
def stream(clock: Clock) -> Stream:
    return Stream(Board(), clock)


def connected(stream: Stream) -> Session:
    session = Session(lambda: stream, "the board")
    session.connect()
    stream.begin()
    return session


def requests(count: int) -> list[tuple[int, bytes]]:
    return [(ECHO, bytes([n]) * (n + 1)) for n in range(count)]


def assert_each_once(session: Session, stream: Stream, count: int) -> None:
    sent = requests(count)
    assert list(session.stream(sent)) == [payload for _, payload in sent]
    assert stream.board.executed == sent


# ---- opening


def test_opening_ends_what_was_half_sent_and_asks_what_is_there(stream: Stream) -> None:
    stream.write(b"half a frame of another host")
    stream.waiting = b"half a reply"
    session = Session(lambda: stream, "the board")
    assert session.connect() == INFO == session.info
    assert stream.board.executed == [(messages.INFO, b"")]


@pytest.mark.parametrize("text", [b"MPY: soft reboot\r\n>>> ", b"\xff" * 999, b"x\0y\0", b"\0" * 9])
def test_text_before_the_first_frame_does_no_harm(stream: Stream, text: bytes) -> None:
    stream.to_host[0] = lambda frame: text + frame
    session = Session(lambda: stream, "the board")
    assert session.connect() == INFO
    assert_each_once(connected(stream), stream, 3)


def test_more_text_than_any_frame_is_forgotten(stream: Stream) -> None:
    session = connected(stream)
    stream.waiting = b"x" * (3 << 20)
    assert_each_once(session, stream, 3)


def test_a_board_at_its_prompt_is_told_to_start(stream: Stream) -> None:
    class Asleep(Board):
        awake = False

        def take(self, frame: bytes) -> bytes:
            if self.awake:
                return super().take(frame)
            self.awake = module.RESTART in frame
            return b">>> "

    stream.board = Asleep()
    assert Session(lambda: stream, "the board").connect() == INFO
    sent = b"".join(data for _, data in stream.written)
    assert sent.count(module.RESTART) == 1
    assert (
        sent.count(b"\0", 0, sent.index(module.RESTART)) >= 4
    )  # after two tries without: it may be a service that is busy


def test_an_answer_to_someone_else_is_no_answer(stream: Stream) -> None:
    """The device was reset, or serves another: UNKNOWN and DAMAGED come before INFO is answered."""
    stream.to_host[0] = lambda frame: (
        frames.seal(messages.UNKNOWN, 0, b"\0\0") + frames.seal(messages.DAMAGED, 0, b"\7\0") + frame
    )
    assert Session(lambda: stream, "the board").connect() == INFO


@pytest.mark.parametrize("direction", ["to_board", "to_host"])
@pytest.mark.parametrize("fault", FAULTS)
def test_opening_over_a_bad_link(stream: Stream, fault: str, direction: str) -> None:
    getattr(stream, direction).update(dict.fromkeys(range(3), FAULTS[fault]))
    assert Session(lambda: stream, "the board").connect() == INFO


@pytest.mark.parametrize("missing", ["wire", "numbers"])
@pytest.mark.parametrize("version", [0, 99, None])
def test_another_version_is_refused(stream: Stream, missing: str, version: int | None) -> None:
    stream.board.info = {**INFO, missing: version}
    with pytest.raises(PicopinnError, match=f"version {version} of the {missing}.*invoke flash") as caught:
        Session(lambda: stream, "the board").connect()
    assert not isinstance(caught.value, LinkLostError)  # coming back would not help


# ---- requests


def test_replies_come_in_order_and_no_more_than_the_window_is_under_way(stream: Stream) -> None:
    for window in (1, 2, 5):
        stream.board.info = {**INFO, "window": window}
        session = connected(stream)
        stream.most_unread = 0
        assert_each_once(session, stream, 20)
        assert stream.most_unread == window
        assert session.statistics.repeated == 0


def test_numbers_wrap(stream: Stream) -> None:
    session = connected(stream)
    session._sequence = 65530
    stream.board.due = 65531
    assert_each_once(session, stream, 20)


@pytest.mark.parametrize("direction", ["to_board", "to_host"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("number", range(7))
def test_one_fault_costs_no_request_and_repeats_none(stream: Stream, number: int, fault: str, direction: str) -> None:
    session = connected(stream)
    getattr(stream, direction)[number] = FAULTS[fault]
    assert_each_once(session, stream, 7)


PLANS = st.dictionaries(st.integers(0, 40), st.sampled_from(sorted(FAULTS)), max_size=20)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(PLANS, PLANS, st.integers(1, 4))
def test_faults_cost_no_request_and_repeat_none(to_board: dict[int, str], to_host: dict[int, str], window: int) -> None:
    clock = Clock()
    module.time = clock  # type: ignore[assignment]
    stream = Stream(Board(info={**INFO, "window": window}), clock)
    session = connected(stream)
    session.patience = 1000  # many faults in a row
    stream.to_board = {n: FAULTS[name] for n, name in to_board.items()}
    stream.to_host = {n: FAULTS[name] for n, name in to_host.items()}
    assert_each_once(session, stream, 12)


def test_a_damaged_frame_is_repeated_at_once(stream: Stream, clock: Clock) -> None:
    session = connected(stream)
    stream.to_board[2] = FAULTS["flipped"]
    before = clock.now
    assert_each_once(session, stream, 6)
    assert clock.now - before < session.retry
    assert session.statistics.repeated > 0


def test_a_device_that_computes_long_is_asked_again_ever_more_seldom(stream: Stream, clock: Clock) -> None:
    session = connected(stream)
    stream.to_board = dict.fromkeys(range(1000), FAULTS["lost"])
    with pytest.raises(LinkLostError, match="the board does not answer any more"):
        session.call(ECHO, b"x")
    times = [now for now, _ in stream.written]
    pauses = np.diff(times)
    assert np.allclose(pauses[:4], [0.5, 1, 2, 4], atol=2 * TICK) and max(pauses) < 4 + 2 * TICK
    assert times[0] + module.PATIENCE <= clock.now < times[0] + module.PATIENCE + 2 * TICK


def test_a_refusal_is_told_in_the_devices_words_and_the_session_goes_on(stream: Stream) -> None:
    def answer(kind: int, payload: bytes) -> bytes:
        if payload == b"\1\1":
            raise Refused("does not fit: 5 bytes needed, 4 are free")
        return payload

    stream.board.answer = answer
    session = connected(stream)
    with pytest.raises(RefusedError, match="the board: does not fit: 5 bytes needed, 4 are free") as caught:
        list(session.stream(requests(5)))
    assert isinstance(caught.value, UsageError)
    stream.board.executed.clear()
    stream.board.answer = lambda kind, payload: payload
    assert_each_once(session, stream, 5)


@pytest.mark.parametrize("number", range(5))
def test_a_device_that_restarted_is_noticed(stream: Stream, number: int) -> None:
    session = connected(stream)

    def restart(frame: bytes) -> bytes:
        stream.board.reset()
        return frame

    stream.to_board[number] = restart
    with pytest.raises(RestartedError, match="the board restarted"):
        list(session.stream(requests(5)))


def test_a_device_that_waits_for_something_else_is_noticed(stream: Stream) -> None:
    """Another program began a session of its own meanwhile."""
    session = connected(stream)
    stream.board.due = (session._sequence + 7) & 0xFFFF
    with pytest.raises(RestartedError, match="out of step"):
        session.call(ECHO)


@pytest.mark.parametrize("strange", [(ECHO, b"?"), (messages.INFO | messages.REPLY, b"{}"), (messages.LEAVE, b"")])
def test_replies_of_another_kind_or_number_are_not_taken(stream: Stream, strange: tuple[int, bytes]) -> None:
    session = connected(stream)
    stream.to_host[0] = lambda frame: (
        frames.seal(strange[0], session._sequence, strange[1])
        + frames.seal(ECHO | messages.REPLY, session._sequence + 40 & 0xFFFF, b"other")
        + frame
    )
    assert session.call(ECHO, b"mine") == b"mine"


# ---- a stream that breaks


@pytest.mark.parametrize("method", ["read", "write", "in_waiting", "reset_input_buffer"])
def test_a_port_that_fails_while_opening(stream: Stream, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(method, monkeypatch)
    with pytest.raises(LinkLostError, match=r"the board: .*gone"):
        Session(lambda: stream, "the board").connect()


def test_a_terminal_that_goes_away_while_opening(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyserial lets through is no OSError."""
    termios = pytest.importorskip("termios")

    def fail(_: object) -> None:
        raise termios.error(errno.EIO, "gone")

    monkeypatch.setattr(Stream, "reset_input_buffer", fail)
    with pytest.raises(LinkLostError, match="gone"):
        Session(lambda: stream, "the board").connect()


@pytest.mark.parametrize("method", ["read", "write", "in_waiting"])
def test_a_port_that_fails_later(stream: Stream, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = connected(stream)
    with monkeypatch.context() as patch:
        _fail(method, patch)
        with pytest.raises(LinkLostError, match=r"the board: .*gone"):
            session.call(ECHO)
    assert session.connect() == INFO  # it is back


def _fail(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(Stream, method, property(fail) if method == "in_waiting" else fail)


def test_a_device_that_is_not_there() -> None:
    def nothing() -> Stream:
        raise FileNotFoundError(errno.ENOENT, "no such port")

    session = Session(nothing, "the board")
    with pytest.raises(LinkLostError, match="the board is not there: plug it in"):
        session.connect()
    with pytest.raises(LinkLostError, match="closed"):
        session.call(ECHO)


def test_closing_what_is_gone(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    session = connected(stream)
    _fail("close", monkeypatch)
    session.close()
    session.close()


# ---- a device that lost everything is told again


class Diary:
    """Answers every message of a network by a hash of what it was told: the same words give the same answers.

    Gradients are sums, as a device's are: of the hashes of every BACKWARD since BEGIN.
    """

    def __init__(self, outputs: Callable[[int], int], accumulators: int) -> None:
        self._outputs, self._accumulators = outputs, accumulators
        self.told: dict[int, bytes] = {}
        self.sum = 0

    def forget(self) -> None:
        self.told = {}

    def __call__(self, kind: int, payload: bytes) -> bytes:
        if kind == messages.CONFIGURE:
            self.told = {kind: payload}
            return struct.pack(messages.PLANNED_HEAD, *[0] * 10, 1, 1)
        if messages.CONFIGURE not in self.told:
            raise Refused("nothing is configured yet")
        return getattr(self, f"_{kind}")(payload)

    def _state(self, *kinds: int) -> bytes:
        return b"".join(self.told[kind] for kind in kinds)

    def _hash(self, payload: bytes) -> int:
        known = self._state(messages.CONFIGURE, messages.WRITE, messages.DIRECTIONS)
        return zlib.crc32(known + payload)

    def _3(self, payload: bytes) -> bytes:  # WRITE
        (offset,) = struct.unpack_from(messages.WRITE_HEAD, payload)
        self.told[messages.WRITE] = self.told.get(messages.WRITE, b"")[:offset] + payload[4:]
        return b""

    def _4(self, payload: bytes) -> bytes:  # LOAD
        self.told[messages.LOAD] = b""
        return bytes(4)

    def _5(self, payload: bytes) -> bytes:  # DIRECTIONS
        (first,) = struct.unpack_from(messages.DIRECTIONS_HEAD, payload)
        assert first == 0
        self.told[messages.DIRECTIONS] = payload
        return bytes(4)

    def _6(self, payload: bytes) -> bytes:  # FORWARD
        count = struct.unpack_from(messages.FORWARD_HEAD, payload)[1]
        length = self._outputs(count)
        return bytes(4) + (struct.pack("<I", self._hash(payload)) * length)[:length]

    def _7(self, payload: bytes) -> bytes:  # BEGIN
        self.told[messages.BEGIN] = payload
        self.sum = zlib.crc32(payload)
        return b""

    def _8(self, payload: bytes) -> bytes:  # BACKWARD
        assert messages.BEGIN in self.told and messages.LOAD in self.told
        self.sum = (self.sum + self._hash(payload)) & 0xFFFFFFFF
        return bytes(4)

    def _9(self, payload: bytes) -> bytes:  # GRADIENTS
        assert messages.BEGIN in self.told
        self.told[messages.GRADIENTS] = b""
        return b""

    def _10(self, payload: bytes) -> bytes:  # READ
        if messages.GRADIENTS not in self.told:
            raise Refused("no gradients")
        offset, length = struct.unpack(messages.READ_HEAD, payload)
        return bytes(4) + (struct.pack("<I", self.sum) * (offset + length))[offset : offset + length]


CASE = Spec(shape="tt2", layers=3, microbatches=5).case()


def diary() -> Diary:
    streams = 1 + 2 * CASE.directions
    return Diary(lambda count: count * streams * (4 * 4 + 2), len(CASE.scaling.exponents))


def device_on(stream: Stream) -> RemoteDevice:
    return RemoteDevice(Session(lambda: stream, "the board"))


def undisturbed() -> tuple[Outputs, int]:
    """What the diary answers, and how many requests that takes."""
    stream = Stream(Board(diary()), Clock())
    return CASE.run(device_on(stream)), len(stream.board.executed)


WANTED, COUNT = undisturbed()


def test_a_step_takes_as_many_messages_as_these_tests_think() -> None:
    assert 15 < COUNT < 60


@pytest.mark.parametrize("number", range(COUNT))
def test_a_device_that_restarts_is_told_everything_again(stream: Stream, number: int) -> None:
    told = stream.board.answer = diary()

    def restart(frame: bytes) -> bytes:
        stream.board.reset()
        told.forget()
        return frame

    stream.to_board[number] = restart
    assert differing(CASE.run(device_on(stream)), WANTED) == []


@pytest.mark.parametrize("keeps", [True, False], ids=["board keeps running", "board loses power"])
@pytest.mark.parametrize("number", range(1, COUNT))  # a device that was never there is not waited for
def test_a_link_that_breaks_is_opened_again(stream: Stream, number: int, keeps: bool) -> None:
    told = stream.board.answer = diary()
    away = [0.3]

    def unplug(frame: bytes) -> bytes:
        if not keeps:
            stream.board.reset()
            told.forget()
        raise OSError(errno.ENODEV, "unplugged")

    def opened() -> Stream:
        if number in stream.to_host and stream._numbers[1] > number and away:
            away.pop()
            raise FileNotFoundError(errno.ENOENT, "not back yet")
        return stream

    stream.to_host[number] = unplug
    device = RemoteDevice(Session(opened, "the board"))
    assert differing(CASE.run(device), WANTED) == []


def test_a_second_restart_while_it_is_told_again(stream: Stream) -> None:
    told = stream.board.answer = diary()

    def restart(frame: bytes) -> bytes:
        stream.board.reset()
        told.forget()
        return frame

    stream.to_board.update(dict.fromkeys((COUNT // 2, COUNT // 2 + 6, COUNT // 2 + 12), restart))
    assert differing(CASE.run(device_on(stream)), WANTED) == []


def test_a_device_that_does_not_come_back(stream: Stream, clock: Clock) -> None:
    stream.board.answer = diary()
    device = device_on(stream)
    device.configure(CASE.program, CASE.directions)

    def nothing() -> Stream:
        raise FileNotFoundError(errno.ENOENT, "no such port")

    device.session.open_port = nothing
    device.session.close()
    before = clock.now
    device.load(CASE.weights)  # waits until something is asked
    with pytest.raises(PicopinnError, match=r"not there: plug it in.*come back"):
        device.forward(CASE.points, CASE.along)
    assert remote.RETURN <= clock.now - before < remote.RETURN + 1


def test_points_that_no_message_takes(stream: Stream) -> None:
    stream.board.answer = diary()
    stream.board.info = {**INFO, "payload": 64}
    device = device_on(stream)
    device.configure(CASE.program, CASE.directions)
    with pytest.raises(UsageError, match="four points does not fit a message of 64 bytes to the board"):
        device.forward(CASE.points, CASE.along)


def test_a_batch_is_cut_into_equal_parts(stream: Stream) -> None:
    """So that a forward with keep and its backward name the same microbatches."""
    stream.board.answer = diary()
    many = replace(CASE, points=_repeated(CASE.points, 9), cotangents=_repeated(CASE.cotangents, 9))
    many.run(device_on(stream))
    parts: dict[int, list[bytes]] = {
        kind: [payload[2:4] + payload[8:] for k, payload in stream.board.executed if k == kind]
        for kind in (messages.FORWARD, messages.BACKWARD)
    }
    forward, backward = parts.values()
    assert len(forward) == len(backward) > 9
    assert all(later.startswith(earlier) for earlier, later in zip(forward, backward, strict=True))
    assert len({part[:2] for part in forward}) <= 2


def _repeated(rows: Rows, times: int) -> Rows:
    return Rows(np.repeat(rows.mantissas, times, axis=0), np.repeat(rows.exponents, times, axis=0))
