"""Starts the service on a board, or on this computer under MicroPython's unix port."""

import gc
import sys
from binascii import hexlify

from . import native, storage
from .service import Service

try:
    import ppn_usb  # firmware/usb: in the images that `invoke build` makes
except ImportError:
    ppn_usb = None


def serve():
    """Serve the host on the standard streams until it leaves or a person presses Ctrl-C."""
    facts = _facts()
    gc.collect()  # what hashing left must not lie between the service's memory and the rest
    try:
        Service(native, *_streams(), facts).run()
    finally:
        if ppn_usb:
            ppn_usb.restore()


def _streams():
    """A reader, a writer, and how many bytes the reader may be asked for at once."""
    if ppn_usb:
        return ppn_usb.stream, ppn_usb.stream, native.AT_ONCE
    at_once = 1 if sys.platform == "rp2" else native.AT_ONCE  # MicroPython's console waits for all it was asked for
    return sys.stdin.buffer, sys.stdout.buffer, at_once


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
