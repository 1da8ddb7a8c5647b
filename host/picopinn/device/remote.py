"""A device at the other end of a byte stream."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from typing import TypeVar

from ppn import messages

from ..errors import DeviceGoneError, PicopinnError, UsageError
from ..link.ports import PortError
from ..link.session import LinkLostError, Request, RestartedError, Session
from ..network import Program, stream_count
from ..smx import BLOCK, blocks_of
from .base import Gradients, Rows, Scaling, Values, pairs
from .packing import Bytes, Parameters, pack_directions, pack_rows, program_bytes, unpack_values

RETURN = 60.0  # seconds that a device which went away has to come back
Answer = TypeVar("Answer")
_LOST = (LinkLostError, RestartedError)
_PIECE = 1024  # bytes of parameters or gradients in a message
_TRIES = 20  # of one request
_PAUSE = 0.2  # seconds between two tries to find it again


@dataclass(frozen=True)
class Memory:
    """What a device said to CONFIGURE, in bytes: ``regions`` each, ``used`` in all, ``left`` free; tapes and cores."""

    regions: dict[str, int]
    used: int
    left: int
    tapes: int
    cores: int


@dataclass(frozen=True)
class Counters:
    """Since the device started: microseconds in kernels and busy in all, frames, damaged frames, bytes either way."""

    kernel_us: int
    busy_us: int
    frames: int
    damaged: int
    bytes_in: int
    bytes_out: int

    def since(self, before: Counters) -> Counters:
        """What was counted in between; a count wraps at 2^32."""
        return Counters(*((getattr(self, f.name) - getattr(before, f.name)) % 2**32 for f in fields(self)))


@dataclass(frozen=True, eq=False)
class _Backward:
    points: Rows
    directions: Rows | None
    cotangents: Rows
    first: int


class RemoteDevice:
    """Integer kernels on another machine; see :class:`picopinn.device.base.Device`.

    What the device is to be told waits until something is asked of it: then it computes while it is told more. What it
    was told since the last ``configure`` is remembered, so that one that was reset, or whose link broke, is told again
    and ends with the same bits.

    Args:
        session: the link to it.
        microbatches: of a step, so that the device keeps as many tapes as it has memory for.
        cores: the most to use.
        patience: seconds that a device which went away has to come back.
    """

    def __init__(self, session: Session, *, microbatches: int = 64, cores: int = 255, patience: float = RETURN) -> None:
        self.session, self._patience = session, patience
        self._wanted = (microbatches, cores)
        self._program: Program
        self._weights: Rows | None = None
        self._scaling: tuple[Scaling, int, int] | None = None
        self._backwards: list[_Backward] = []
        self._sent_directions: Rows | None = None
        self._waiting: list[Request] = []
        self._flags = 0
        self.memory: Memory | None = None

    # ---- the verbs of a device

    def configure(self, program: Program, directions: int) -> None:
        """See Device; UsageError if the device has no room for the program."""
        self._program, self._directions, self._flags = program, directions, 0
        self._parameters = Parameters(program)
        self._weights, self._scaling = None, None
        self._backwards.clear()
        if not self.session.info:
            self.session.connect()  # one that was never there is not waited for
        self._ask(self._send_program)

    def load(self, weights: Rows) -> None:
        self._weights, self._scaling = weights, None
        self._backwards.clear()
        self._tell_weights()

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        return self._ask(lambda: self._forward(points, directions, keep))

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        self._scaling = scaling, seed, step
        self._backwards.clear()
        self._tell_scaling()

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        backward = _Backward(points, directions, cotangents, first)
        self._backwards.append(backward)
        self._tell_backward(backward)

    def gradients(self) -> Gradients:
        return self._ask(self._gradients)

    def flags(self) -> int:
        flags, self._flags = self._flags, 0
        return flags

    def counters(self) -> Counters:
        """What the device counted since it started."""
        (reply,) = self._replies([(messages.COUNTERS, b"")])
        return Counters(*struct.unpack(messages.COUNTED_HEAD, reply))

    def close(self) -> None:
        """End the session; the device waits for the next."""
        self.session.close()

    # ---- a link that breaks

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer; DeviceGoneError if the device fails at it time and again."""
        for _ in range(_TRIES):
            try:
                return ask()
            except _LOST as error:
                lost = error
                self._recover(error)
        raise DeviceGoneError(f"{lost}, {_TRIES} times at the same request: report this, or use --device local")

    def _recover(self, error: PicopinnError) -> None:
        """Wait for the device to come back and tell it everything that it was told.

        Raises:
            DeviceGoneError: it stays away.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self.session.connect()
                self._send_everything()
                return
            except (*_LOST, PortError) as again:  # a port that has just come back may not be ours yet
                error = again
            if time.monotonic() >= deadline:
                raise DeviceGoneError(f"{error}; it did not come back in {self._patience:.0f} s") from error
            time.sleep(_PAUSE)

    def _send_everything(self) -> None:
        self._send_program()
        if self._weights is not None:
            self._tell_weights()
        if self._scaling is not None:
            self._tell_scaling()
        for backward in self._backwards:
            self._tell_backward(backward)
        self._replies([])

    # ---- requests

    def _replies(self, requests: Iterable[Request]) -> list[bytes]:
        """The replies to requests, without their flags, which are noted; those that wait go first."""
        waiting, self._waiting = self._waiting, []
        kinds: list[int] = []

        def noted() -> Iterator[Request]:
            for request in chain(waiting, requests):
                kinds.append(request[0])
                yield request

        size = messages.size(messages.FLAGS_HEAD)
        replies = []
        for place, reply in enumerate(self.session.stream(noted())):
            flagged = kinds[place] in messages.FLAGGED
            self._flags |= int(struct.unpack_from(messages.FLAGS_HEAD, reply)[0]) if flagged else 0
            replies.append(reply[size:] if flagged else reply)
        return replies[len(waiting) :]

    def _tell(self, kind: int, payloads: Iterable[bytes]) -> None:
        self._waiting += [(kind, payload) for payload in payloads]

    def _send_program(self) -> None:
        self._sent_directions = None
        self._waiting.clear()  # it was for another
        head = struct.pack(messages.CONFIGURE_HEAD, *self._wanted)
        (reply,) = self._replies([(messages.CONFIGURE, head + program_bytes(self._program, self._directions))])
        *sizes, used, left, tapes, cores = struct.unpack(messages.PLANNED_HEAD, reply)
        self.memory = Memory(dict(zip(messages.REGIONS, sizes, strict=True)), used, left, tapes, cores)

    def _tell_weights(self) -> None:
        assert self._weights is not None
        packed = self._parameters.pack(self._weights)
        pieces = self._pieces(len(packed), messages.WRITE_HEAD)
        payloads = (struct.pack(messages.WRITE_HEAD, start) + packed[start:stop] for start, stop in pieces)
        self._tell(messages.WRITE, payloads)
        self._tell(messages.LOAD, [b""])

    def _tell_directions(self, directions: Rows | None) -> int:
        """Set the directions if the device has others; answers how many."""
        if directions is None or self._program.mode == "naive":
            return 0
        if directions is not self._sent_directions:
            rows = pairs(directions) if self._program.mode == "difference" else directions
            packed = pack_directions(rows, self._program.inputs)
            room = (self._payload - messages.size(messages.DIRECTIONS_HEAD)) // packed.shape[-1]
            self._need(room, "a direction")
            starts = range(0, len(packed), room)
            payloads = (
                struct.pack(messages.DIRECTIONS_HEAD, start) + bytes(packed[start : start + room]) for start in starts
            )
            self._tell(messages.DIRECTIONS, payloads)
            self._sent_directions = directions
        return len(directions.exponents)

    def _forward(self, points: Rows, directions: Rows | None, keep: bool) -> Values:
        batch = self._batch(points, directions)
        payloads = (
            struct.pack(messages.FORWARD_HEAD, batch.directions, stop - start, keep) + bytes(content)
            for start, stop, content in batch.parts()
        )
        outputs = self._replies((messages.FORWARD, payload) for payload in payloads)
        return unpack_values(b"".join(outputs), batch.streams, self._program.outputs)

    def _tell_scaling(self) -> None:
        assert self._scaling is not None
        scaling, seed, step = self._scaling
        head = struct.pack(messages.BEGIN_HEAD, seed, step, scaling.limit, 0)
        self._tell(messages.BEGIN, [head + scaling.exponents.astype("<i2").tobytes()])

    def _tell_backward(self, backward: _Backward) -> None:
        batch = self._batch(backward.points, backward.directions)
        packed = pack_rows(backward.cotangents, self._program.outputs)
        payloads = (
            struct.pack(messages.BACKWARD_HEAD, batch.directions, stop - start, backward.first + start)
            + bytes(content)
            + bytes(packed[start:stop])
            for start, stop, content in batch.parts()
        )
        self._tell(messages.BACKWARD, payloads)

    def _gradients(self) -> Gradients:
        pieces = self._pieces(self._parameters.gradient_bytes, messages.FLAGS_HEAD)
        reads = ((messages.READ, struct.pack(messages.READ_HEAD, start, stop - start)) for start, stop in pieces)
        _, *packed = self._replies(chain([(messages.GRADIENTS, b"")], reads))
        return self._parameters.unpack(b"".join(packed))

    # ---- how much goes into one message

    def _pieces(self, size: int, head: str) -> Iterator[tuple[int, int]]:
        """Start and end of pieces of so many bytes: small ones, so that the device begins soon with what it has."""
        room = min(_PIECE, self._payload - messages.size(head))
        return ((start, min(start + room, size)) for start in range(0, size, room))

    @property
    def _payload(self) -> int:
        return int(self.session.info["payload"])

    def _batch(self, points: Rows, directions: Rows | None) -> _Batch:
        """The batch packed and cut; the device is to have its directions."""
        naive = self._program.mode == "naive"
        count = self._tell_directions(directions)
        if naive:
            count = (points.exponents.shape[1] - 1) // 2
        streams = stream_count(self._program.mode, count)
        packed = pack_rows(points, self._program.inputs).reshape(len(points.exponents), -1)
        columns = self._program.outputs
        cotangents = streams * (BLOCK * columns * 2 + blocks_of(columns))
        outputs = streams * (BLOCK * columns * 4 + blocks_of(columns) * 2)
        head = messages.size(messages.BACKWARD_HEAD)
        most = self._payload - head
        room = min(most // (packed.shape[1] + cotangents), most // outputs, messages.MICROBATCHES)
        self._need(room, "a microbatch of four points")
        return _Batch(packed, count, streams, room)

    def _need(self, room: int, what: str) -> None:
        if room < 1:
            raise UsageError(
                f"{what} does not fit a message of {self._payload} bytes to {self.session.name}: use fewer directions"
            )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Packed points (n, bytes), and how many microbatches a message takes."""

    packed: Bytes
    directions: int
    streams: int
    room: int

    def parts(self) -> Iterator[tuple[int, int, Bytes]]:
        """Parts of nearly equal size, the same for a forward and its backward: start, stop, packed points."""
        count = len(self.packed)
        parts = -(-count // self.room)
        edges = [count * k // max(parts, 1) for k in range(parts + 1)]
        for start, stop in pairwise(edges):
            yield start, stop, self.packed[start:stop]
