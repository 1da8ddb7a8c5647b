"""Putting picopinn on a board: one file copied to its boot loader, or, under MicroPython, the files that differ."""

from __future__ import annotations

import contextlib
import io
import os
import re
import string
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import boards, image
from .boards import Board
from .errors import PicopinnError, UsageError
from .link.ports import open_port, ports_with
from .link.session import LinkLostError

INFO = "INFO_UF2.TXT"
_CHUNK = 1 << 14  # bytes between two reports while copying
_PIECE = 1536  # bytes sent at a time over the prompt
_RETURN = 10.0  # seconds for a board to come back after a reset
_MODULES = (6, 3)  # version of .mpy files with native code
_SURVEY = """
import os, sys
from binascii import a2b_base64, hexlify
from hashlib import sha256
def survey(folder):
    for name in os.listdir(folder or '/'):
        path = folder + name
        if os.stat(path)[0] & 0x4000:
            survey(path + '/')
            continue
        total = sha256()
        with open(path, 'rb') as file:
            while piece := file.read(1024):
                total.update(piece)
        print(path, hexlify(total.digest()).decode())
"""
_REPLACE = """
import os
def replace(old, new):
    try:
        os.rename(old, new)
    except OSError:
        os.remove(new)
        os.rename(old, new)
"""

Report = Callable[[str, "float | None"], None]  # a line for people; with a share from 0 to 1, what is under way
Ask = Callable[[str], "dict[str, Any]"]  # what the device at a port says of itself


def flash(
    board: Board,
    micropython: Callable[[], bytes],
    ask: Ask,
    report: Report,
    volume: Path | None = None,
    port: str | None = None,
    solvers: image.Files | None = None,
) -> None:
    """Put the application on the one board there is, or on the one at ``volume`` or ``port``, and see that it answers.

    Args:
        micropython: answers the contents of flash from its start; called only for a board in its boot loader.
        ask: see :data:`Ask`; raises PicopinnError if nothing answers.
        solvers: files to put beside the application.

    Raises:
        UsageError: no board, several, or another kind of board.
        PicopinnError: it failed under way.
    """
    if volume is None and port is None:
        volume, port = _find(board)
    if volume is not None:
        check_volume(board, volume)
        before = set(find_ports(board))
        copy(board, image.build(board, micropython(), solvers), volume, report)
        if volume.exists():
            report(f"copied; the board starts when it has taken the file, and {volume} goes", None)
            return
        port = _await_port(lambda: sorted(set(find_ports(board)) - before))
    else:
        assert port is not None
        push(board, {**image.application(board.arch), **(solvers or {})}, port, report)
    if _await_info(ask, port).get("application") != image.digest(image.application(board.arch)):
        raise PicopinnError(f"{port} runs another application than was sent: plug the board in anew and flash again")
    report(f"{board.title} at {port} runs picopinn", None)


def find_ports(board: Board) -> list[str]:
    """Serial ports of boards that have the board's USB ids."""
    return [port.device for port in ports_with(board.usb)]


def find_volumes(board: Board) -> list[Path]:
    """Mounted volumes of boot loaders of the board's kind."""
    if board.bootloader is None:
        return []
    return [place for place in _mounts() if _board_id(place) == board.bootloader.volume]


def copy(board: Board, data: bytes, volume: Path, report: Report) -> None:
    """Copy an image to a boot loader's volume, and read it back if the board does not start at once.

    Raises:
        UsageError: this is not such a volume.
        PicopinnError: it vanished under way, or holds something else afterwards.
    """
    check_volume(board, volume)
    target, done = volume / f"picopinn-{board.name}.uf2", 0
    try:
        with open(target, "wb", buffering=0) as file:
            while done < len(data):
                done += file.write(data[done : done + _CHUNK])
                os.fsync(file.fileno())
                report(f"copying {len(data)} bytes to {volume}", done / len(data))
    except OSError as error:
        if done < len(data):  # with the last block the board starts, and its volume goes
            raise PicopinnError(
                f"{volume} failed after {done} of {len(data)} bytes ({error.strerror}): "
                "plug the board in again with BOOTSEL held, and repeat"
            ) from None
    with contextlib.suppress(OSError):
        if target.read_bytes() != data:
            raise PicopinnError(f"{target} reads back differently: plug the board in with BOOTSEL held, and repeat")


def check_volume(board: Board, volume: Path) -> None:
    """Raise UsageError unless this is the volume of a boot loader of the board's kind."""
    if board.bootloader is None:
        raise UsageError(f"{board.title} has no such boot loader: put MicroPython on it, then give --port")
    found, wanted = _board_id(volume), board.bootloader.volume
    if found is None:
        raise UsageError(f"{volume} is no boot loader's volume (no {INFO}): hold BOOTSEL while plugging the board in")
    if found != wanted:
        others = [boards.load(name) for name in boards.names()]
        fitting = [other.name for other in others if other.bootloader and other.bootloader.volume == found]
        advice = f"use --board {fitting[0]}" if fitting else "picopinn knows no such board"
        raise UsageError(f"{volume} belongs to a board {found}, not {wanted}: {advice}")


def push(board: Board, files: image.Files, port: str, report: Report) -> list[str]:
    """Send the files that a board under MicroPython lacks, take away modules it has too many, and reset it.

    Each file is written aside, then renamed: a board that loses power meanwhile has the old one or the new one.

    Returns:
        Paths that were sent.

    Raises:
        UsageError: the port is busy or not there, or another board is at it.
        PicopinnError: the connection broke.
    """
    with prompt_at(port) as prompt:
        _check_machine(board, port, prompt)
        prompt.exec(_SURVEY + _REPLACE)
        listing = prompt.exec("survey('')").decode().split("\r\n")
        present = dict(line.rsplit(" ", 1) for line in listing if line)
        changed = [path for path, content in files.items() if present.get(path) != sha256(content).hexdigest()]
        for path in sorted(path for path in present if path.startswith("ppn/") and path not in files):
            prompt.exec(f"os.remove({path!r})")
        if any(path.startswith("ppn/") for path in changed) and not any(path.startswith("ppn/") for path in present):
            prompt.exec("if 'ppn' not in os.listdir('/'): os.mkdir('ppn')")
        total, done = sum(len(files[path]) for path in changed), 0
        for path in changed:
            prompt.exec("file = open('incoming', 'wb')")
            for at in range(0, len(files[path]), _PIECE):
                piece = files[path][at : at + _PIECE]
                prompt.exec(f"file.write(a2b_base64('{b64encode(piece).decode()}'))")
                done += len(piece)
                report(f"sending {path} to {port}", done / total)
            prompt.exec(f"file.close(); replace('incoming', {path!r})")
        if not changed:
            report(f"{port} has all files already", None)
        prompt.exec_raw_no_follow("import machine; machine.reset()")
        time.sleep(0.1)  # for the command to leave before the port closes
    return changed


@contextlib.contextmanager
def prompt_at(port: str) -> Iterator[Any]:
    """MicroPython's raw prompt at a port, whatever ran there before."""
    _check_port(port)
    transport = image.require("mpremote.transport_serial")
    errors = (transport.TransportError, OSError)
    noise = io.StringIO()  # mpremote prints what it could not make sense of
    try:
        with contextlib.redirect_stdout(noise):
            prompt = transport.SerialTransport(port, timeout=_RETURN)
            _leave_service(prompt.serial)
            prompt.enter_raw_repl(timeout_overall=_RETURN)
    except errors:
        raise UsageError(f"no MicroPython answers at {port}: plug the board in with BOOTSEL held, and repeat") from None
    try:
        yield prompt
    except errors as error:
        raise PicopinnError(f"the board at {port} failed under way: {str(error).strip()}: flash it again") from None
    finally:
        with contextlib.suppress(OSError):
            prompt.close()


def _leave_service(link: Any) -> None:
    """End a frame under way, then picopinn's service, and wait for the prompt: what comes sooner, the service takes."""
    link.write(b"\0\r\x03")
    link.timeout = 2
    link.read_until(b">>> ")
    link.timeout = _RETURN


def _check_port(port: str) -> None:
    """Raise UsageError with the reason why a port cannot be had."""
    try:
        open_port(port).close()
    except OSError:
        raise UsageError(f"{port} is not there: plug the board in, and repeat") from None


def _check_machine(board: Board, port: str, prompt: Any) -> None:
    said = prompt.exec(
        "import sys; print(sys.implementation._machine, getattr(sys.implementation, '_mpy', 0), sep='|')"
    )
    machine, modules = said.decode().strip().split("|")
    if not machine.endswith(board.machine):
        fitting = [name for name in boards.names() if machine.endswith(boards.load(name).machine)]
        advice = f"use --board {fitting[0]}" if fitting else "picopinn knows no such board"
        raise UsageError(f"at {port} is {machine}, not {board.title} ({board.machine}): {advice}")
    if (int(modules) & 0xFF, int(modules) >> 8 & 3) != _MODULES:
        raise UsageError(f"MicroPython at {port} reads other modules than those of 1.23 to 1.29: put 1.25 on the board")


def _find(board: Board) -> tuple[Path | None, str | None]:
    """The one volume or the one port at which there is a board."""
    volumes, ports = find_volumes(board), find_ports(board)
    if len(volumes) + len(ports) == 1:
        return (volumes[0], None) if volumes else (None, ports[0])
    if volumes or ports:
        choices = [f"--volume {place}" for place in volumes] + [f"--port {port}" for port in ports]
        raise UsageError(f"several boards are here: add {' or '.join(choices)}")
    boot = " (without MicroPython on it: with BOOTSEL held)" if board.bootloader else ""
    raise UsageError(f"no {board.title} is here: plug it in{boot}, or give --port or --volume")


def _await_port(find: Callable[[], list[str]]) -> str:
    """The first port that turns up while a board starts."""
    deadline = time.monotonic() + _RETURN
    while not (found := find()):
        if time.monotonic() > deadline:
            raise PicopinnError("the board did not come back: unplug it, plug it in and flash again")
        time.sleep(0.1)
    return found[0]


def _await_info(ask: Ask, port: str) -> dict[str, Any]:
    """What the device says, once it says something: its port comes and goes while it starts."""
    deadline = time.monotonic() + _RETURN
    while True:
        try:
            return ask(port)
        except LinkLostError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _mounts() -> list[Path]:
    """Where volumes are mounted: FAT file systems on Linux, all on macOS and Windows."""
    if sys.platform == "win32":
        return [drive for letter in string.ascii_uppercase if (drive := Path(f"{letter}:/")).exists()]
    if sys.platform == "darwin":
        return sorted(Path("/Volumes").iterdir())
    return _fat(Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape"))


def _fat(mounts: str) -> list[Path]:
    """The FAT file systems of Linux's table, in which spaces and the like are octal."""
    places = [line.split()[1] for line in mounts.splitlines() if line.split()[2] in ("vfat", "msdos")]
    return [Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place)) for place in places]


def _board_id(volume: Path) -> str | None:
    """Board-ID of a boot loader's volume; None for any other folder."""
    try:
        lines = (volume / INFO).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Board-ID:")), None)
