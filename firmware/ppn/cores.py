"""The board's cores: the one that serves the link and, where there is another, a thread on it that computes along."""

try:
    import _thread
except ImportError:  # a MicroPython without threads
    _thread = None


class Cores:
    """Deals a batch to one or two cores.

    Args:
        count: cores of the board; those beyond the second are not used.
    """

    def __init__(self, count):
        self.count = 2 if count > 1 and _thread else 1
        self._helper = None

    def deal(self, cores, count, job):
        """OR of the flags of ``job(core, start, count)`` over ``count`` microbatches dealt to so many ``cores``."""
        mine = count if cores < 2 else (count + 1) // 2
        if mine == count:
            return job(0, 0, count)
        if self._helper is None:
            self._helper = _Helper()
        self._helper.start(job, (1, mine, count - mine))
        try:
            flags = job(0, 0, mine)
        finally:
            others = self._helper.wait()
        return flags | others

    def stop(self):
        """Let the other core go."""
        if self._helper is not None:
            self._helper.start(None, ())
            self._helper = None


class _Helper:
    """A thread that runs one job after the other; on an RP2040 threads run on the second core."""

    def __init__(self):
        self._go, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._go.acquire()
        self._done.acquire()
        _thread.start_new_thread(self._run, ())

    def start(self, job, arguments):
        self._job, self._arguments, self._error = job, arguments, None
        self._go.release()

    def wait(self):
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._flags

    def _run(self):
        while True:
            self._go.acquire()
            if self._job is None:
                return
            try:
                self._flags = self._job(*self._arguments)
            except Exception as error:  # goes to the core that waits
                self._error = error
            self._done.release()
