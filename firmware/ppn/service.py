"""The device's side of the link. Requests that compute are answered within ``native.serve``; the others here."""

import gc
import json
from struct import pack, pack_into
from time import ticks_us

from . import messages
from .messages import PAYLOAD
from .network import Network, RefusedError


class Service:
    """Serves one host over a byte stream; ``natmod/session.h`` sees to it that each request is executed once.

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
        self._network = Network(native, facts["cores"])

    def run(self):
        """Serve until the host says LEAVE, a person presses Ctrl-C or the stream ends."""
        native, session = self._native, self._session
        kind = 0
        try:
            while kind != messages.LEAVE:
                received = native.serve(
                    session, self._network.solver, self._reader, self._writer, self._at_once, ticks_us
                )
                if received == -1:
                    break
                kind = received & 0xFF
                native.reply(session, self._writer, *self._execute(received))
        except EOFError:
            pass
        self._network.forget()

    def _execute(self, received):
        """What to answer: its kind, and the length of its payload in ``_answer``."""
        try:
            if received < 0:
                raise RefusedError(messages.reason(received + 1))
            kind = received & 0xFF
            return kind | messages.REPLY, self._do(kind, self._request[: received >> 8])
        except MemoryError:
            reason = f"out of memory, {gc.mem_free()} bytes are free: choose a smaller network"
        except (RefusedError, ValueError) as error:
            reason = str(error)
        return messages.FAILED, self._put(reason.encode())

    def _do(self, kind, payload):
        if kind == messages.INFO:
            return self._put(json.dumps(self._info()).encode())
        if kind == messages.CONFIGURE:
            return self._put(pack(messages.PLANNED_HEAD, *self._network.configure(payload)))
        if kind == messages.COUNTERS:
            pack_into(messages.COUNTED_HEAD, self._answer, 0, *self._native.counted(self._session))
            return messages.size(messages.COUNTED_HEAD)
        if kind == messages.ECHO:
            return self._put(payload)
        if kind == messages.LEAVE:
            return 0
        raise RefusedError(f"nothing is configured yet, or request {kind} is unknown: flash the board again")

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
