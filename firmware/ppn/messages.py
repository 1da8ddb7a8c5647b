"""Messages between host and device (docs/spec.md, "wire"): their kinds and heads, and how a device plans its memory."""

from struct import calcsize, pack, unpack_from

INFO, CONFIGURE, WRITE, LOAD, DIRECTIONS, FORWARD, BEGIN, BACKWARD, GRADIENTS, READ, COUNTERS, ECHO, LEAVE = range(
    1, 14
)
FLAGGED = LOAD, DIRECTIONS, FORWARD, BACKWARD, READ  # what is computed shows in their replies
REPLY = 0x80  # added to the kind of the request that a reply answers
UNKNOWN = 0xFD  # the device has no session, as after a reset: begin with INFO
DAMAGED = 0xFE  # a frame did not arrive; the payload is the sequence number that the device waits for
FAILED = 0xFF  # the request cannot be met; the payload is the reason, UTF-8

# Heads of payloads, little-endian, padded so that what follows is aligned.
CONFIGURE_HEAD = "<HH"  # tapes and cores wanted; a program follows
WRITE_HEAD = "<I"  # offset; packed parameters follow, from 0 on without a gap
DIRECTIONS_HEAD = "<I"  # number of the first; packed rows follow
FORWARD_HEAD = "<HHI"  # directions, microbatches, whether to keep tapes; packed points follow
BEGIN_HEAD = "<IIHH"  # seed, step, limit exponent, 0; an int16 exponent an accumulator follows
BACKWARD_HEAD = "<HHI"  # directions, microbatches, number of the first; packed points and cotangents follow
READ_HEAD = "<II"  # offset, length
FLAGS_HEAD = "<I"  # flags, in the reply to FLAGGED; outputs or packed gradients may follow
SEQUENCE_HEAD = "<H"

REGIONS = (
    "device",
    "weights",
    "rows",
    "parameters",
    "gradients",
    "scratch",
    "numbers",
    "tape",
)  # native.device_open() has them
PLANNED_HEAD = "<8IIIHH"  # reply to CONFIGURE: bytes of REGIONS, bytes used and left, tapes, cores
COUNTED_HEAD = "<6I"  # reply to COUNTERS: microseconds in kernels and busy, frames, damaged ones, bytes in and out

PAYLOAD = 1600  # bytes of the longest payload, either way
MICROBATCHES = 64  # of one request, at most
RESERVE = 32768  # bytes of heap that a device leaves free where it has the choice
ALIGNED = 16  # bytes of a block of a MicroPython heap
STACK = 7168  # bytes of heap for the second core's stack: the kernels' deepest calls take about 5 KiB


_SIZES: dict[str, int] = {}


def size(head: str) -> int:
    """Bytes of a head."""
    if head not in _SIZES:  # looking at a format string takes a board longer than this
        _SIZES[head] = calcsize(head)
    return _SIZES[head]


def read(head: str, payload: bytes) -> tuple[int, ...]:
    """The fields of a payload's ``head``; ValueError if it is shorter than that."""
    if len(payload) < size(head):
        raise ValueError("the message is too short")
    return unpack_from(head, payload, 0)


def program(
    stages: list,  # type: ignore[type-arg]
    chains: list,  # type: ignore[type-arg]
    directions: int,
    codes: tuple[int, ...],
) -> bytes:
    """A program as a device reads it.

    Args:
        stages: of each (rows, cols, panels, expand, closes, chain), chain -1 for none.
        chains: of each (modes, ranks).
        directions: the most that a batch will have.
        codes: activation, mode, widths of weights, activations, base stream, gradients and input.
    """
    out = bytearray(pack("<HHH8B", len(stages), len(chains), directions, *codes, 0))
    for stage in stages:
        out += pack("<HHHBBh", *stage)
    for modes, ranks in chains:
        fields = tuple(modes) + (0,) * (4 - len(modes)) + tuple(ranks) + (0,) * (5 - len(ranks))
        out += pack("<10H", len(modes), *fields)
    return bytes(out)


def plan(sizes: tuple[int, ...], free: int, tapes: int, cores: int) -> tuple[int, int, int]:
    """How a device uses its memory: ``(bytes, tapes, cores)``.

    As many of the cores, then of the tapes, as leave RESERVE bytes. One core with one tape need not leave them.

    Args:
        sizes: bytes of each of ``REGIONS``.
        free: bytes of heap.
        tapes: as many as a step has microbatches, so that no backward need run its forward again.
        cores: that the device has.
    """
    room = free - RESERVE
    while cores > 1 and used(sizes, cores, cores) > room:
        cores -= 1
    while tapes > cores and used(sizes, tapes, cores) > room:
        tapes -= 1
    tapes = max(tapes, cores)
    return used(sizes, tapes, cores), tapes, cores


def used(sizes: tuple[int, ...], tapes: int, cores: int) -> int:
    """Bytes that a network takes with so many tapes and cores."""
    device, weights, rows, _, gradients, scratch, numbers, _ = [_whole(count) for count in sizes]
    own = gradients + scratch + numbers
    return device + weights + rows + cores * own + (cores - 1) * STACK + tape_bytes(sizes, tapes)


def tape_bytes(sizes: tuple[int, ...], tapes: int) -> int:
    """Memory of so many tapes; parameters and gradients pass through it while no tape is in use."""
    tape, parameters = sizes[REGIONS.index("tape")], sizes[REGIONS.index("parameters")]
    return max(tapes * _whole(tape), _whole(parameters))


def _whole(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED


def reason(code: int) -> str:
    """What a ppn_status, or an answer of natmod/device.h below 0, means."""
    return _REASONS.get(code, f"status {code}")


_REASONS = {
    -4: "the answer would be too long: send fewer points at a time",
    -3: "it needs another request before it",
    -2: "more was asked for than was configured",
    -1: "the message has the wrong length",
    1: "a mantissa width is outside 4..16",
    2: "stages do not fit each other, or a size is 0 or too large",
    3: "a half-chain does not multiply out to its stage matrix",
    4: "an activation or mode is unknown, or there is no stage, or more than 1024",
    5: "more than 4095 directions, or a memory region of 2 GiB",
}
