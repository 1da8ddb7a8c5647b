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
    """

    def __init__(self, native, cores):
        self._native = native
        self._cores = min(cores, native.CORES) if _thread else 1
        self._solver = bytearray(native.SOLVER)
        self._memory = None
        self._helped = False  # the other core waits for work, with a stack of its own

    @property
    def solver(self):
        """For ``native.serve``; None while nothing is configured."""
        return self._solver if self._memory else None

    def stop(self):
        """Let the other core go."""
        if self._helped:
            self._native.dismiss(self._solver)
        self._helped = False

    def configure(self, payload):
        """Make room for the program in a CONFIGURE request; answers the fields of PLANNED_HEAD.

        Raises:
            RefusedError, ValueError: it is no program, or does not fit; the text says why.
            MemoryError: memory is in pieces that are too small.
        """
        wanted, cores = messages.read(messages.CONFIGURE_HEAD, payload)
        self._forget()
        device, sizes = self._open(payload[messages.size(messages.CONFIGURE_HEAD) :])
        gc.collect()
        free = gc.mem_free() + len(device) + (messages.STACK if self._helped else 0)
        used, slots, cores = messages.plan(sizes, free, wanted, min(max(cores, 1), self._cores))
        if used > free:
            raise RefusedError(f"does not fit: {used} bytes needed, {free} are free")
        if cores > 1 and not self._helped:
            self._start_helper()  # its stack stays, so it comes before the large pieces
        memory, slots = self._take(device, sizes, slots, cores)
        self._native.solver_open(self._solver, *memory[:4], slots, memory[4])
        self._memory = memory
        gc.collect()
        used = messages.used(sizes, slots, cores)
        return tuple(sizes) + (used, gc.mem_free(), slots, cores)  # noqa: RUF005 -- MicroPython has no such display

    def _forget(self):
        """Give all memory back. The collector looks for pointers everywhere, so none may stay in the solver either."""
        self._memory = None
        self._solver[:] = bytes(len(self._solver))  # to the other core: still nothing to do
        gc.collect()

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
        """Memory as ``native.solver_open`` takes it, and how many tapes there was a piece for."""
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
        return (device, bytearray(weights), bytearray(rows), tapes, own), slots

    def _start_helper(self):
        """Have the other core compute along. It may still be leaving an earlier call."""
        _thread.stack_size(messages.STACK)
        for _ in range(1000):
            try:
                _thread.start_new_thread(self._native.help, (self._solver,))
                self._helped = True
                return
            except OSError:
                sleep_ms(1)
        raise RefusedError("the other core is busy: reset the board, or use --cores 1")
