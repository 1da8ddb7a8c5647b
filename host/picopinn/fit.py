"""What training takes on a board, told before it is flashed.

Memory is to the byte: regions are what the board's own C answers, and how they are used its own Python.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppn import messages
from rich.table import Table

from .boards import Board
from .device.packing import program_bytes
from .errors import UsageError
from .network import Program


@dataclass(frozen=True)
class Memory:
    """Bytes on a board: of each region, ``used`` in all, of ``heap``; tapes and cores that there is room for."""

    regions: dict[str, int]
    used: int
    heap: int
    tapes: int
    cores: int


def memory(program: Program, directions: int, board: Board, microbatches: int, cores: int) -> Memory:
    """What a board will answer to CONFIGURE.

    Args:
        directions: the most of a batch.
        microbatches: of a step, four points each.
        cores: the most to use.

    Raises:
        UsageError: nobody has measured the board, it has no room, or no device takes such a program.
    """
    from .kernels import board_sizes  # only this needs the compiled kernels

    if board.heap_bytes is None:
        raise UsageError(f"nobody has measured the memory of a {board.title} yet: choose rp2040")
    sizes = board_sizes(program_bytes(program, directions))
    used, tapes, cores = messages.plan(sizes, board.heap_bytes, microbatches, min(cores, board.cores))
    if used > board.heap_bytes:
        free = f"{used:,} bytes needed, {board.heap_bytes:,} are free"
        raise UsageError(f"does not fit a {board.title}: {free}: choose a smaller --hidden, --rank or --directions")
    return Memory(dict(zip(messages.REGIONS, sizes, strict=True)), used, board.heap_bytes, tapes, cores)


def table(memory: Memory, board: Board) -> Table:
    """The regions and what they come to; parameters pass through the memory of the tapes."""
    result = Table()
    result.add_column(f"on a {board.title}")
    result.add_column("bytes", justify="right")
    regions, cores = dict(memory.regions), memory.cores
    tapes = messages.tape_bytes(tuple(regions.values()), memory.tapes)
    for region in ("parameters", "tape"):
        del regions[region]
    for region, size in regions.items():
        times = cores if region in ("gradients", "scratch", "numbers") else 1
        result.add_row(region if times == 1 else f"{region} x {times}", f"{size * times:,}")
    result.add_row(f"tape x {memory.tapes}", f"{tapes:,}")
    if cores > 1:
        result.add_row("stack of the second core", f"{messages.STACK:,}")
    result.add_section()
    result.add_row(f"used by {cores} core{'s' if cores > 1 else ''}", f"{memory.used:,}")
    result.add_row("left", f"{memory.heap - memory.used:,}")
    return result
