"""Serial ports: those at which there is a board, and opening one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

import serial
from serial.tools import list_ports

from ..errors import UsageError
from .session import PATIENCE, Port

_READ_TIMEOUT = 0.02  # seconds that a read of a port waits
_WRITE_TIMEOUT = PATIENCE  # of a device that does not take its bytes any more, yet is there


class PortError(UsageError):
    """A port that is there, but not to be had."""


def ports_with(usb: Iterable[str]) -> list[Any]:
    """The ports (pyserial's ``ListPortInfo``) with one of these ``vendor:product`` ids, by name."""
    known = set(usb)
    found = [port for port in list_ports.comports() if port.vid is not None]
    return sorted((port for port in found if f"{port.vid:04x}:{port.pid:04x}" in known), key=lambda port: port.device)


def open_port(url: str) -> Port:
    """A port by name, for us alone, or anything else that pyserial opens.

    Raises:
        PortError: it is there, but not to be had.
        OSError: it is not there.
    """
    exclusive = None if "://" in url else True
    try:
        port: Port = serial.serial_for_url(
            url, timeout=_READ_TIMEOUT, write_timeout=_WRITE_TIMEOUT, exclusive=exclusive
        )
    except serial.SerialException as error:
        text = str(error)
        denied = error.errno == errno.EACCES or "denied" in text
        if error.errno == errno.EBUSY or "lock" in text or (denied and os.name == "nt"):  # Windows' word for busy
            raise PortError(f"{url} is in use: close the program that has it open") from error
        if denied:
            advice = "join its group (on Debian `sudo adduser $USER dialout`) and log in anew"
            raise PortError(f"{url} is not yours to open: {advice}") from error
        if "FileNotFoundError" in text:  # Windows' word for a port that is not there
            raise FileNotFoundError(errno.ENOENT, text) from error
        raise
    return port
