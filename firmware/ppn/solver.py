"""A network on the device: its memory, and the verbs that compute."""

import gc
from struct import pack, pack_into
from time import ticks_diff, ticks_us

from . import messages

_FLAGS = messages.size(messages.FLAGS_HEAD)


class Refused(Exception):
    """A request that cannot be met; the text is for the host."""


class Solver:
    """Holds a network between ``CONFIGURE`` and the next; every verb but ``BACKWARD`` may be repeated.

    Args:
        native: the module ``ppn.native``.
        cores: the board's ``Cores``.
    """

    def __init__(self, native, cores):
        self._native, self._cores = native, cores
        self.kernel_us = 0
        self._verbs = {
            messages.WRITE: self._write,
            messages.LOAD: self._load,
            messages.DIRECTIONS: self._directions,
            messages.FORWARD: self._forward,
            messages.BEGIN: self._begin,
            messages.BACKWARD: self._backward,
            messages.GRADIENTS: self._gradients,
            messages.READ: self._read,
        }
        self._forget()

    def do(self, kind, payload, out):
        """Execute one verb: writes its answer to ``out``, answers how many bytes.

        Raises:
            Refused, ValueError: it cannot be met; the text says why.
            MemoryError: there is no room for a network.
        """
        if kind == messages.CONFIGURE:
            return self._configure(payload, out)
        verb = self._verbs.get(kind)
        if verb is None:
            raise Refused("request %d is unknown here: flash the board again" % kind)
        if self._device is None:
            raise Refused("nothing is configured yet")
        return verb(payload, out)

    # ---- memory

    def _forget(self):
        self._device = self._weights = self._rows = self._parameters = self._tapes = None
        self._own = []  # of each core: gradients, scratch, numbers
        self._held = {}  # first tape of a batch, by the batch
        self._drop_held()
        self._begun = self._loaded = False

    def _configure(self, payload, out):
        tapes, cores = messages.read(messages.CONFIGURE_HEAD, payload)
        self._forget()
        gc.collect()
        program = payload[messages.size(messages.CONFIGURE_HEAD) :]
        device = bytearray(_checked(self._native.device_bytes(program)))
        sizes = self._native.open(device, program)
        if isinstance(sizes, int):
            raise Refused(messages.reason(sizes))
        gc.collect()
        free = gc.mem_free() + len(device)
        used, tapes, cores = messages.plan(sizes, free, tapes, min(cores, self._cores.count))
        if used > free:
            raise Refused("does not fit: %d bytes needed, %d are free" % (used, free))
        _, weights, rows, parameters, gradients, tape, scratch, numbers = sizes
        self._tapes = bytearray(tapes * tape)
        self._weights, self._rows, self._parameters = bytearray(weights), bytearray(rows), bytearray(parameters)
        self._own = [(bytearray(gradients), bytearray(scratch), bytearray(numbers)) for _ in range(cores)]
        self._device, self._tape_count, self._spare = device, tapes, tapes - cores
        self._at, self._gradients_at, self._end = self._native.places(device)
        pack_into(messages.PLANNED_HEAD, out, 0, *(tuple(sizes) + (used, gc.mem_free(), tapes, cores)))
        return messages.size(messages.PLANNED_HEAD)

    # ---- parameters and gradients

    def _write(self, payload, out):
        """Place packed parameters; LOAD reads them."""
        (offset,) = messages.read(messages.WRITE_HEAD, payload)
        content = payload[messages.size(messages.WRITE_HEAD) :]
        start = self._at + offset
        if start + len(content) > self._end:
            raise Refused("parameters beyond the last")
        self._parameters[start : start + len(content)] = content
        return 0

    def _load(self, payload, out):
        self._drop_held()
        self._loaded = True
        return self._run(out, self._native.load, self._device, self._own[0], self._weights, self._parameters)

    def _gradients(self, payload, out):
        if self._begun:
            for other in self._own[1:]:
                self._native.merge(self._device, self._own[0], other)
        self._begun = False  # so that the sums of other cores are added once
        peaks = out[_FLAGS:]
        self._run(out, self._native.gradients, self._device, self._own[0], self._weights, self._parameters, peaks)
        return _FLAGS + self._native.accumulators(self._device) * 4

    def _read(self, payload, out):
        """Packed gradients, as GRADIENTS left them."""
        offset, length = messages.read(messages.READ_HEAD, payload)
        start = self._gradients_at + offset
        if length > len(out) or start + length > self._end:
            raise Refused("gradients beyond the last")
        out[:length] = memoryview(self._parameters)[start : start + length]
        return length

    # ---- batches

    def _directions(self, payload, out):
        (first,) = messages.read(messages.DIRECTIONS_HEAD, payload)
        self._drop_held()
        packed = payload[messages.size(messages.DIRECTIONS_HEAD) :]
        return self._run(out, self._native.directions, self._device, self._rows, first, packed)

    def _forward(self, payload, out):
        directions, count, keep = messages.read(messages.FORWARD_HEAD, payload)
        points, _, outputs = self._packed(directions, count)
        batch = payload[messages.size(messages.FORWARD_HEAD) :]
        if len(batch) != points:
            raise Refused("points of another number than was said")
        if _FLAGS + outputs > len(out):
            raise Refused("the answer would be too long: send fewer points at a time")
        self._need_load()
        slot = self._hold(_key(payload), count) if keep else None
        if slot is None:
            self._free_spare()
        results = out[_FLAGS:]

        def job(core, start, count):
            tape, spread = (self._spare + core, False) if slot is None else (slot + start, True)
            return self._native.forward(
                self._device, self._own[core], self._weights, self._rows, self._tapes, tape, spread,
                directions, batch, start, count, results,
            )  # fmt: skip

        self._run(out, self._cores.deal, len(self._own), count, job)
        return _FLAGS + outputs

    def _begin(self, payload, out):
        self._seed, self._step, limit, _ = messages.read(messages.BEGIN_HEAD, payload)
        exponents = payload[messages.size(messages.BEGIN_HEAD) :]
        for own in self._own:
            _checked(self._native.begin(self._device, own, exponents, limit))
        self._terms = (1 << (31 - limit)) - 1  # that no sum can overflow
        self._begun = True
        return 0

    def _backward(self, payload, out):
        directions, count, first = messages.read(messages.BACKWARD_HEAD, payload)
        points, cotangents, _ = self._packed(directions, count)
        batch = payload[messages.size(messages.BACKWARD_HEAD) :]
        if len(batch) != points + cotangents:
            raise Refused("points or cotangents of another number than was said")
        self._need_load()
        if not self._begun:
            raise Refused("gradients were not begun")
        self._terms -= self._native.terms(self._device, directions) * count
        if self._terms < 0:
            raise Refused("more terms than the limit exponent allows")
        slot = self._held.get(_key(payload[: len(payload) - cotangents]))
        if slot is None:
            self._free_spare()
        after = batch[points:]

        def job(core, start, count):
            tape, kept = (self._spare + core, False) if slot is None else (slot + start, True)
            return self._native.backward(
                self._device, self._own[core], self._weights, self._rows, self._tapes, tape, kept,
                directions, batch, after, start, count, first, self._seed, self._step,
            )  # fmt: skip

        return self._run(out, self._cores.deal, len(self._own), count, job)

    def _packed(self, directions, count):
        """Bytes of a batch's packed points, cotangents and outputs."""
        points, cotangents, outputs = self._native.microbatch(self._device, directions)
        return points * count, cotangents * count, outputs * count

    def _need_load(self):
        if not self._loaded:
            raise Refused("no parameters were loaded")

    def _hold(self, key, count):
        """The first of ``count`` tapes that keep a batch until other parameters or directions come, or None."""
        if key not in self._held:
            if self._next_tape + count > self._tape_count:
                return None
            self._held[key] = self._next_tape
            self._next_tape += count
        return self._held[key]

    def _free_spare(self):
        """Give up what the last tapes hold, one a core: a batch that is not kept runs on them."""
        if self._next_tape > self._spare:
            self._drop_held()

    def _drop_held(self):
        self._held.clear()
        self._next_tape = 0

    def _run(self, out, function, *arguments):
        """Time ``function`` and answer the flags that it returned."""
        started = ticks_us()
        flags = _checked(function(*arguments))
        self.kernel_us += ticks_diff(ticks_us(), started)
        out[:_FLAGS] = pack(messages.FLAGS_HEAD, flags)
        return _FLAGS


def _checked(answer):
    if answer < 0:
        raise Refused(messages.reason(answer))
    return answer


def _key(payload):
    """What a batch is recognized by: directions, number of microbatches, and points."""
    return bytes(payload[:4]) + bytes(payload[8:])
