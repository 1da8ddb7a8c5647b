"""Devices without hardware: an RP2040 in an emulator, and MicroPython on this computer.

``EmulatedBoard`` runs the image that a board would be flashed with. ``UnixBoard`` runs the same Python under
MicroPython's unix port, with the native module of this computer. Each is a process that ends when ours does, and is
reached by opening its ``port`` with pyserial, as often as one likes; ``contextlib.closing`` ends it sooner.

Cycles of a piece of code are measured on the board itself: by ``time.ticks_us()``, or by SysTick, whose value at
0xE000E018 counts down. Both follow the emulator's cycle model. It skips idle time: wall clock time tells nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from ..errors import PicopinnError, UsageError

UNALIGNED = "not 32 bit aligned"  # logged by the emulator where a Cortex-M0+ faults
_PATIENCE = 10.0  # seconds for a process to end by itself


class EmulatedBoard:
    """An RP2040 with both cores, its flash written from a UF2 image. What it writes to flash is lost at the end.

    Raises:
        UsageError: no emulator is installed, or no image is there.
        PicopinnError: it does not start.
    """

    def __init__(self, image: Path) -> None:
        if importlib.util.find_spec("rp2040py") is None:
            raise UsageError("no RP2040 emulator is here: pip install 'picopinn[emulator]'")
        if not image.is_file():
            raise UsageError(f"no image {image}: make it with `invoke build --board rp2040`")
        server = Path(__file__).with_name("_rp2040.py")
        command = [sys.executable, str(server), str(image)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._process.stdout and self._process.stderr
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._log.extend, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        self.port = self._process.stdout.readline().strip()
        if not self.port:
            self.close()

    @property
    def log(self) -> str:
        """What the emulator had to say so far: accesses that a real chip would refuse, and its own failures."""
        return "".join(self._log)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raise ``PicopinnError`` if the emulator died, or saw an access at which a real chip faults."""
        unaligned = [line.strip() for line in self._log if UNALIGNED in line]
        if unaligned:
            raise PicopinnError(f"a real board would have faulted {len(unaligned)} times; first: {unaligned[0]}")
        if self._process.poll():
            raise PicopinnError(f"the emulator ended by itself: {(self._log or ['no output'])[-1].strip()}")

    def reset(self) -> None:
        """Pull the RUN pin: the board starts again, flash as it is. Returns when its USB is back."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("reset\n")
            self._process.stdin.flush()
        if not self._process.stdout.readline():
            self.close()

    def close(self) -> None:
        """End the emulator, then ``check``."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
        self.check()


class UnixBoard:
    """``main.py`` of a folder under MicroPython's unix port, its standard streams being a pseudo-terminal.

    The folder is what a board's flash would hold; it is the working directory and the only place of modules.

    Raises:
        UsageError: ``micropython`` is not there.
    """

    def __init__(self, micropython: Path, folder: Path, heap: int = 1 << 20) -> None:
        import tty  # not on Windows, nor is the unix port

        if not micropython.is_file():
            raise UsageError(f"no {micropython}: build MicroPython's unix port with `invoke setup`")
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        self.port = os.ttyname(theirs)
        self._kept = theirs  # while it is open, the process sees no end of input between two clients
        self._process = subprocess.Popen(
            [str(micropython), "-X", f"heapsize={heap}", "main.py"],
            cwd=folder,
            env={**os.environ, "MICROPYPATH": "."},
            stdin=ours,
            stdout=ours,
            stderr=subprocess.PIPE,
        )
        os.close(ours)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the process.

        Raises:
            PicopinnError: it had failed; the message is its last line.
        """
        failed = self._process.poll() not in (None, 0, -signal.SIGTERM, -signal.SIGKILL)
        self._process.kill()
        _, errors = self._process.communicate()
        os.close(self._kept)
        if failed:
            last = (errors.decode(errors="replace").splitlines() or ["no output"])[-1]
            raise PicopinnError(f"MicroPython's unix port ended by itself: {last}")
