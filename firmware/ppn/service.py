"""The device's side of the link: takes requests, has the kernels compute, answers."""

import gc
import json
from struct import pack_into
from time import ticks_diff, ticks_us

from . import messages
from .cores import Cores
from .solver import Refused, Solver

PAYLOAD = 2048  # bytes of the longest payload, either way


class Service:
    """Serves one host over a byte stream; ``natmod/session.h`` sees to it that each request comes here once.

    Args:
        native: the module ``ppn.native``.
        reader, writer: the stream, binary.
        at_once: most bytes to read at a time: 1 from a stream that waits for all it was asked for.
        facts: what INFO tells of the board: ``arch``, ``cores``, ``clock_hz`` and ``application``.
    """

    def __init__(self, native, reader, writer, at_once, facts):
        self._native, self._reader, self._writer, self._at_once = native, reader, writer, at_once
        self._facts = facts
        self._session = bytearray(native.session_bytes(PAYLOAD))
        request, answer = native.session_open(self._session, PAYLOAD)
        self._request = memoryview(self._session)[request : request + PAYLOAD]
        self._answer = memoryview(self._session)[answer : answer + PAYLOAD]
        self._cores = Cores(facts["cores"])
        self._solver = Solver(native, self._cores)
        self._busy_us = 0

    def run(self):
        """Serve until the host says LEAVE, a person presses Ctrl-C or the stream ends."""
        native, session, writer = self._native, self._session, self._writer
        kind = 0
        while kind != messages.LEAVE:
            try:
                received = native.receive(session, self._reader, writer, self._at_once)
            except EOFError:
                break
            if received < 0:
                break
            started = ticks_us()
            kind = received & 0xFF
            answer, length = self._execute(kind, self._request[: received >> 8])
            native.reply(session, writer, answer, length)
            self._busy_us += ticks_diff(ticks_us(), started)
        self._cores.stop()

    def _execute(self, kind, payload):
        """Do what is asked: the kind of the answer, and the length of its payload."""
        try:
            return kind | messages.REPLY, self._do(kind, payload)
        except MemoryError:
            reason = "out of memory, %d bytes are free: choose a smaller network" % gc.mem_free()
        except (Refused, ValueError) as error:
            reason = str(error)
        return messages.FAILED, self._put(reason.encode())

    def _do(self, kind, payload):
        if kind == messages.INFO:
            return self._put(json.dumps(self._info()).encode())
        if kind == messages.COUNTERS:
            counted = (self._solver.kernel_us, self._busy_us) + self._native.counted(self._session)
            pack_into(messages.COUNTED_HEAD, self._answer, 0, *[count & 0xFFFFFFFF for count in counted])
            return messages.size(messages.COUNTED_HEAD)
        if kind == messages.LEAVE:
            return 0
        return self._solver.do(kind, payload, self._answer)

    def _info(self):
        native = self._native
        facts = {"wire": native.WIRE, "numbers": native.VERSION, "payload": PAYLOAD, "window": native.WINDOW}
        facts.update(self._facts)
        gc.collect()
        facts["free"] = gc.mem_free()
        return facts

    def _put(self, content):
        self._answer[: len(content)] = content
        return len(content)
