"""Starts the service on a board, or on this computer under MicroPython's unix port."""

import sys
from binascii import hexlify

from . import native, storage
from .service import Service


def serve():
    """Serve on the standard streams until the host leaves or a person presses Ctrl-C."""
    at_once = 1 if sys.platform == "rp2" else native.AT_ONCE  # MicroPython's console waits for all it was asked for
    Service(native, sys.stdin.buffer, sys.stdout.buffer, at_once, _facts()).run()


def _facts():
    facts = {
        "arch": sys.implementation._machine,
        "cores": 1,
        "clock_hz": 0,
        "application": storage.digest(),
    }
    if sys.platform == "rp2":
        import machine

        facts.update(cores=2, clock_hz=machine.freq(), serial=hexlify(machine.unique_id()).decode())
    return facts
