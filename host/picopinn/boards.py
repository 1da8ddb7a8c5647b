"""Boards: each is a file in ``firmware/boards``, and adding one is adding a file."""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from .errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Bootloader:
    """How a board without MicroPython takes an image: a UF2 file copied to a volume.

    Attributes:
        volume: Board-ID in the volume's INFO_UF2.TXT.
        family: of the chip, in every block of the file.
        start: address of flash.
    """

    volume: str
    family: int
    start: int


@dataclass(frozen=True)
class Filesystem:
    """Where MicroPython keeps its littlefs: address of its start, bytes of a block, number of blocks."""

    start: int
    block_bytes: int
    blocks: int


@dataclass(frozen=True)
class Board:
    """A kind of board.

    Attributes:
        name: of its file.
        title: for people.
        machine: what ``sys.implementation._machine`` ends with on it.
        arch: of native modules, in MicroPython's words.
        cores: how many compute.
        clock_hz: as MicroPython sets it.
        ram_bytes: of the chip.
        usb: ``vendor:product`` in hexadecimal, as it appears under MicroPython.
        heap_bytes: free while picopinn serves, as INFO answers; None where nobody has measured.
        piece_bytes: the largest piece of that heap; None as above.
        cycles: of one piece of each kind of work, part by part (fit.py counts the pieces); None as above.
        bootloader, filesystem: None if MicroPython must be on it already.
    """

    name: str
    title: str
    machine: str
    arch: str
    cores: int
    clock_hz: int
    ram_bytes: int
    usb: tuple[str, ...]
    heap_bytes: int | None = None
    piece_bytes: int | None = None
    cycles: dict[str, dict[str, int]] | None = None
    bootloader: Bootloader | None = None
    filesystem: Filesystem | None = None


def firmware_folder() -> Path:
    """What boards are given: in an installed package inside it, in a checkout beside ``host``."""
    packed = Path(__file__).with_name("firmware")
    return packed if packed.is_dir() else Path(__file__).parents[2] / "firmware"


def names() -> list[str]:
    """Names of all boards."""
    return sorted(path.stem for path in (firmware_folder() / "boards").glob("*.toml"))


def load(name: str) -> Board:
    """The board of that name.

    Raises:
        UsageError: there is none, or its file is not as it should be.
    """
    path = firmware_folder() / "boards" / f"{name}.toml"
    if name not in names():
        raise UsageError(f"no board {name!r}; there are {', '.join(names())}, and {path.parent} takes more")
    return read(path)


def read(path: Path) -> Board:
    """The board that a file describes.

    Raises:
        UsageError: a key is missing, unknown or of the wrong kind.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    for key, kind in (("bootloader", Bootloader), ("filesystem", Filesystem)):
        if key in table:
            table[key] = _build(kind, table[key], f"{path}: [{key}]")
    board: Board = _build(Board, {"name": path.stem, **table}, f"{path}:")
    return board


def _build(kind: type, table: Any, where: str) -> Any:
    """An instance of a dataclass from a table, each key checked."""
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table")
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(table.keys() - known.keys())
    missing = [name for name, field in known.items() if field.default is MISSING and name not in table]
    if unknown or missing:
        problem = f"unknown key {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing"
        raise UsageError(f"{where} {problem}; known are {', '.join(known)}")
    types = get_type_hints(kind)
    return kind(**{key: _check(value, types[key], f"{where} {key}") for key, value in table.items()})


def _check(value: Any, kind: Any, where: str) -> Any:
    """The value if it is a positive number, a text, a list of USB ids or a part that is checked already."""
    if kind == tuple[str, ...]:
        if not isinstance(value, list) or not all(re.fullmatch("[0-9a-f]{4}:[0-9a-f]{4}", str(each)) for each in value):
            raise UsageError(f"{where} = {value!r} is not a list of ids such as '2e8a:0005'")
        return tuple(value)
    if kind == dict[str, dict[str, int]] | None:
        for part, costs in value.items() if isinstance(value, dict) else ():
            for work, cycles in costs.items() if isinstance(costs, dict) else ((part, costs),):
                _check(cycles, int, f"{where}.{part} {work}")
    if kind is str and not (isinstance(value, str) and value):
        raise UsageError(f"{where} = {value!r} is not a text")
    if kind in (int, int | None) and (type(value) is not int or value < 1):
        raise UsageError(f"{where} = {value!r} is not a number above 0")
    return value
