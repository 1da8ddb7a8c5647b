"""A network on the device: its memory, and the cores that compute it."""

import gc
from time import sleep_ms

from . import messages

try:
    import _thread
except ImportError:  # a MicroPython without threads
    _thread = None


class RefusedError(Exception):
    """A request that cannot be met; the text is for the host."""


class Network:
    """Owns the memory of a solver (``natmod/solver.h``).

    Args:
        native: the module ``ppn.native``.
        cores: that compute at the same time.

    Attributes:
        solver: for ``native.serve``; None while nothing is configured.
    """

    def __init__(self, native, cores):
        self._native = native
        self._cores = min(cores, native.CORES) if _thread else 1
        self.solver = self._memory = None
        self._helped = False

    def forget(self):
        """Give all memory back."""
        if self._helped:
            self._native.dismiss(self.solver)
        self.solver = self._memory = None
        self._helped = False
        gc.collect()

    def configure(self, payload):
        """Make room for the program in a CONFIGURE request; answers the fields of PLANNED_HEAD.

        Raises:
            RefusedError, ValueError: it is no program, or does not fit; the text says why.
            MemoryError: memory is in pieces that are too small.
        """
        wanted, cores = messages.read(messages.CONFIGURE_HEAD, payload)
        self.forget()
        device, sizes = self._open(payload[messages.size(messages.CONFIGURE_HEAD) :])
        gc.collect()
        free = gc.mem_free() + len(device)
        used, slots, cores = messages.plan(sizes, free, wanted, min(max(cores, 1), self._cores))
        if used > free:
            raise RefusedError(f"does not fit: {used} bytes needed, {free} are free")
        slots = self._take(device, sizes, slots, cores)
        self.solver = bytearray(self._native.SOLVER)
        keep = slots if slots >= wanted else slots - cores
        self._native.solver_open(self.solver, *self._memory[:4], slots, keep, self._memory[4])
        if cores > 1:
            self._start_helper()
        used = messages.used(sizes, slots, cores)
        gc.collect()
        return tuple(sizes) + (used, gc.mem_free(), slots, cores)  # noqa: RUF005 -- MicroPython has no such display

    def _open(self, program):
        """The device for a program, and the bytes of ``messages.REGIONS``."""
        size = self._native.device_bytes(program)
        if size < 0:
            raise RefusedError(messages.reason(size))
        device = bytearray(size)
        sizes = self._native.device_open(device, program)
        if isinstance(sizes, int):
            raise RefusedError(messages.reason(sizes))
        return device, sizes

    def _take(self, device, sizes, slots, cores):
        """Take memory as ``native.solver_open`` wants it; answers how many tapes there is a piece for."""
        _, weights, rows, _, gradients, scratch, numbers, _ = sizes
        tapes = None
        while tapes is None:
            try:
                tapes = bytearray(messages.tape_bytes(sizes, slots))  # the largest piece, so first
            except MemoryError:
                if slots == cores:
                    raise
                slots -= 1
        own = [(bytearray(gradients), bytearray(scratch), bytearray(numbers)) for _ in range(cores)]
        self._memory = device, bytearray(weights), bytearray(rows), tapes, own
        return slots

    def _start_helper(self):
        """Have the other core compute along. It may still be leaving an earlier call."""
        _thread.stack_size(messages.STACK)
        for _ in range(1000):
            try:
                _thread.start_new_thread(self._native.help, (self.solver,))
                self._helped = True
                return
            except OSError:
                sleep_ms(1)
        self.solver = None  # that would wait for the other core
        raise RefusedError("the other core is busy: reset the board, or use --cores 1")
