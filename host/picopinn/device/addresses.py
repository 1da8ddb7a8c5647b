"""Where a device is: ``local``, ``unix``, ``emulated:rp2040``, ``serial:auto|PORT|id:SERIAL`` or ``socket://HOST:PORT``."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import boards
from ..errors import UsageError
from ..link.ports import open_port, ports_with
from ..link.session import Port, Session
from .base import Device
from .local import LocalDevice
from .remote import RemoteDevice

if TYPE_CHECKING:
    from ..link.emulator import EmulatedBoard, UnixBoard

LOCAL = "local"
FORMS = "local, unix, emulated:rp2040, serial:auto, serial:PORT, serial:id:SERIAL or socket://HOST:PORT"


def open_device(address: str, *, threads: int = 1, microbatches: int = 64, cores: int = 255) -> Device:
    """The device at an address; it is reached when it is configured.

    Args:
        address: one of :data:`FORMS`.
        threads: of ``local``.
        microbatches: of a step, so that a board keeps as many tapes as it has memory for.
        cores: of a board, the most to use.

    Raises:
        UsageError: the address is not understood, or names nothing that is here; the message says what is.
    """
    if address == LOCAL:
        return LocalDevice(threads)
    return RemoteDevice(open_session(address), microbatches=microbatches, cores=cores)


def open_session(address: str) -> Session:
    """A session with the device at an address that is not ``local``, not yet connected; UsageError as above."""
    return Session(_opener(address), address)


def _opener(address: str) -> Callable[[], Port]:
    kind, _, rest = address.partition(":")
    if kind == "serial" and rest:
        return _SerialPort(rest)
    if kind == "socket" and rest.startswith("//"):
        return lambda: open_port(address)
    if address == "unix" or (kind == "emulated" and rest):
        needs_terminals(address)
    if address == "unix":
        return _Started(unix_board)
    if kind == "emulated" and rest:
        return _Started(lambda: emulated_board(rest))
    raise UsageError(f"device {address!r} is not understood: it is one of {FORMS}")


def needs_terminals(address: str) -> None:
    """Raise UsageError where there are no pseudo-terminals, over which devices without hardware are reached."""
    if not hasattr(os, "openpty"):
        raise UsageError(f"{address} needs pseudo-terminals, which this system lacks: use local or serial:PORT")


class _SerialPort:
    """Opens the serial port that ``auto``, ``id:SERIAL`` or a name means; later the same board under any name."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._serial = wanted.removeprefix("id:") if wanted.startswith("id:") else None
        if wanted == "auto":
            self._wanted = _only_board().device

    def __call__(self) -> Port:
        by_serial = next((p.device for p in serial_ports() if self._serial and p.serial_number == self._serial), None)
        if by_serial is None and self._wanted.startswith("id:"):
            raise FileNotFoundError(errno.ENOENT, f"no board with serial number {self._serial} is here")
        port = open_port(by_serial or self._wanted)
        known = next((p.serial_number for p in serial_ports() if p.device == self._wanted), None)
        self._serial = self._serial or known
        return port


class _Started:
    """Starts a device without hardware at the first opening, and again if it was stopped since.

    Raises:
        PicopinnError: it failed; the message is its own.
    """

    def __init__(self, start: Callable[[], EmulatedBoard | UnixBoard]) -> None:
        self._start = start
        self.board: EmulatedBoard | UnixBoard | None = None

    def __call__(self) -> Port:
        if self.board is not None and self.board.ended:
            self._end()
        if self.board is None:
            self.board = self._start()
            atexit.register(self._end)
        return open_port(self.board.port)

    def _end(self) -> None:
        atexit.unregister(self._end)
        board, self.board = self.board, None
        if board is not None:
            board.close()


def serial_ports() -> list[Any]:
    """The serial ports at which there is a board of any kind (pyserial's ``ListPortInfo``)."""
    return ports_with(usb for name in boards.names() for usb in boards.load(name).usb)


def _only_board() -> Any:
    found = serial_ports()
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError("no board is here: plug one in, or put picopinn on it with `invoke flash --board rp2040`")
    listed = " or ".join(f"serial:{port.device}" for port in found)
    raise UsageError(f"several boards are here: choose {listed}")


def emulated_board(name: str) -> EmulatedBoard:
    """A board in an emulator, with the image that it would be flashed with."""
    from .. import image, toolchain
    from ..link.emulator import EmulatedBoard

    board = boards.load(name)
    if board.name != "rp2040":
        raise UsageError(f"there is no emulator of {board.title}: use emulated:rp2040")
    contents = image.build(board, toolchain.board_firmware(board.name).read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board.uf2"
        path.write_bytes(contents)
        return EmulatedBoard(path)


def unix_board() -> UnixBoard:
    """The board's own Python on this computer, in MicroPython's unix port."""
    from .. import image, toolchain
    from ..link.emulator import UnixBoard

    folder = Path(tempfile.mkdtemp(prefix="picopinn-unix-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path, content in image.application("x64").items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    return UnixBoard(toolchain.unix_port(), folder)
