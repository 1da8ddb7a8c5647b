"""A trained solver on a board, no host attached (docs/export.md).

The native module answers requests within a session alone, so each evaluation is a FORWARD in a frame, from memory and
into memory.
"""

import gc
import math
import os
from array import array
from binascii import crc32
from io import BytesIO
from struct import pack, unpack_from

from . import frames, messages, stored
from .stored import SUFFIX

_ROWS = 4  # points of a microbatch


class Trained:
    """u of a trained solver: ``u(0.3, 0.7)``, or ``u.values(points)``.

    Values are the nearest floats to those of ``Solver.predict`` on a computer, at the same points in the same order; a
    hard constraint is computed in the board's own floats.

    Args:
        name: of the file, without its suffix.

    Raises:
        OSError: there is no such file; the text says which there are.
        ValueError: it is damaged, or for another version of the application.
        MemoryError: no room; the text says how much it takes.
    """

    def __init__(self, name):
        from . import native  # a computer that reads this for its layout has none

        self._native, self.name = native, name
        with _open(name + SUFFIX) as file:
            self.inputs, program, text, blocks, parameters, self._crc = self._read_head(file)
            self._take(file.read(program))
            text = file.read(text)
            self._found = crc32(text, self._found)
            exponents, end = (stored.BLOCK - 1) * blocks, stored.BLOCK * blocks
            self._fill(file, exponents, end)
            self._fill(file, end - parameters, exponents)
        if self._found != self._crc:
            raise self._damaged()
        self._constraint = _function(text.decode()) if text else None
        self._begin()
        self._ask(messages.LOAD, b"")

    def __call__(self, *x):
        return self.values((x,))[0]

    def values(self, points):
        """u at points (a list of tuples of numbers): a list. Four take as long as one."""
        found = []
        for first in range(0, len(points), _ROWS):
            some = points[first : first + _ROWS]
            mantissas, exponents = self._encode(some)
            head = pack(messages.FORWARD_HEAD, 0, 1, 0)
            self._ask(messages.FORWARD, head + bytes(mantissas) + bytes(exponents))
            answered = messages.size(messages.FLAGS_HEAD)
            exponent = unpack_from("<h", self._answer, answered + 4 * _ROWS)[0]
            for row, m in enumerate(unpack_from("<4i", self._answer, answered)[: len(some)]):
                value = _real(m, exponent)
                if self._constraint:
                    offset, factor = self._constraint(self._held(mantissas, exponents, row))
                    value = offset + factor * value
                found.append(value)
        return found

    # ---- the file

    def _read_head(self, file):
        head = file.read(messages.size(stored.HEAD))
        if head[:4] != stored.MAGIC or len(head) < messages.size(stored.HEAD):
            raise ValueError(f"{self.name}{SUFFIX} is no solver: picopinn export --to board makes one")
        _, version, numbers, *rest = unpack_from(stored.HEAD, head)
        if (version, numbers) != (stored.FORMAT, self._native.VERSION):
            raise ValueError(f"{self.name}{SUFFIX} is for another picopinn than this board's: flash both again")
        return rest

    def _take(self, program):
        """Memory, and a solver in it, for a program."""
        native = self._native
        self._found = crc32(program)
        size = native.device_bytes(program)
        self._device = bytearray(max(size, 0))
        sizes = native.device_open(self._device, program)
        if isinstance(sizes, int):
            raise self._damaged()
        _, weights, rows, _, _, scratch, numbers, _ = sizes
        gc.collect()
        try:
            self._tapes = bytearray(messages.tape_bytes(sizes, 1))
            self._memory = [bytearray(size) for size in (weights, rows, scratch, numbers)]
        except MemoryError:
            needed = sum(stored.pieces(sizes))
            raise MemoryError(f"{self.name} takes {needed} bytes, {gc.mem_free()} are free: reset the board") from None
        self._solver = bytearray(native.SOLVER)
        weights, rows, scratch, numbers = self._memory
        core = (bytearray(4), scratch, numbers)  # it has no gradients
        native.solver_open(self._solver, self._device, weights, rows, self._tapes, 1, [core])

    def _fill(self, file, start, stop):
        """Read parameters to where LOAD looks for them."""
        place = memoryview(self._tapes)[start:stop]
        if file.readinto(place) != stop - start:
            raise self._damaged()
        self._found = crc32(place, self._found)

    def _damaged(self):
        return ValueError(f"{self.name}{SUFFIX} is damaged: put it on the board again, picopinn flash --solver RUN")

    # ---- requests

    def _begin(self):
        """Open a session with ourselves; answers lie in its memory."""
        longest = 16 + 2 * _ROWS * self.inputs + self.inputs  # of a request; an answer is shorter
        self._session = bytearray(self._native.session_bytes(longest))
        _, answer = self._native.session_open(self._session, longest)
        self._answer = memoryview(self._session)[answer : answer + longest]
        self._sequence = 0
        self._serve(messages.INFO, b"")
        self._native.reply(self._session, BytesIO(), messages.INFO | messages.REPLY, 0)

    def _ask(self, kind, payload):
        """Have a request executed that computes."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        if not self._serve(kind, payload):
            raise RuntimeError("the native module refused a request: flash the board again")

    def _serve(self, kind, payload):
        """Whether the session answers such a frame, and does not leave that to us."""
        reader = BytesIO(frames.seal(kind, self._sequence, payload))
        try:
            self._native.serve(self._session, self._solver, reader, BytesIO(), self._native.AT_ONCE, _no_time)
        except EOFError:  # answered, and nothing more to read
            return True
        return False

    def _encode(self, points):
        """Up to four points as FORWARD takes them: mantissas row by row, an exponent for four columns (spec 2.1)."""
        inputs = self.inputs
        for point in points:
            if len(point) != inputs:
                raise TypeError(f"{self.name} takes {inputs} coordinates, got {len(point)}")
        mantissas, exponents = array("h", [0] * (_ROWS * inputs)), array("b")
        for first in range(0, inputs, 4):
            columns = range(first, min(first + 4, inputs))
            exponent, some = _exponent([point[c] for point in points for c in columns]), 0
            for row, point in enumerate(points):
                for c in columns:
                    mantissas[row * inputs + c] = m = _mantissa(point[c], exponent)
                    some |= m
            exponents.append(exponent if some else -128)
        return mantissas, exponents

    def _held(self, mantissas, exponents, row):
        """The point that the network has."""
        start = row * self.inputs
        return [math.ldexp(float(mantissas[start + c]), exponents[c // 4]) for c in range(self.inputs)]


def _open(path):
    try:
        return open(path, "rb")
    except OSError:
        there = [name for name in os.listdir() if name.endswith(SUFFIX)]
        advice = "there are " + ", ".join(sorted(there)) if there else "picopinn flash --solver RUN puts one here"
        raise OSError(f"no {path} on this board: {advice}") from None


def _function(text):
    """Of a constraint's text."""
    return eval(f"lambda x: ({text})", {name: getattr(math, name) for name in stored.FUNCTIONS})


def _no_time():
    """The session counts microseconds for a host; there is none."""
    return 0


def _exponent(numbers):
    """Of a block of 16-bit mantissas with these numbers."""
    largest = 0.0
    for number in numbers:
        if not abs(number) < 1e38:
            raise ValueError("coordinates are finite numbers below 1e38")
        largest = max(largest, abs(number))
    return max(math.frexp(largest)[1] - 15, -127)


def _mantissa(number, exponent):
    """The nearest, ties away from zero."""
    size = math.ldexp(abs(number), -exponent)
    whole = int(size)
    whole = min(whole + (size - whole >= 0.5), 32767)
    return -whole if number < 0 else whole


def _real(m, exponent):
    """m * 2^exponent as the nearest float: m has up to 31 bits, a board's floats 24."""
    return math.ldexp(float(m >> 16) * 65536.0 + float(m & 0xFFFF), exponent)
