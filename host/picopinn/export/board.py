"""``.ppn``: a solver for ``ppn.solver(name)`` on a board (firmware/ppn/trained.py reads it)."""

from __future__ import annotations

from binascii import crc32
from struct import pack

from ppn import stored

from ..boards import Board
from ..device.packing import Parameters, program_bytes
from ..errors import UsageError
from ..kernels import NUMBERS, board_sizes
from .c import require_integers
from .trained import Trained


def write(trained: Trained) -> bytes:
    """The file: a head, the program as CONFIGURE has it, a hard constraint, the parameters as WRITE has them.

    Raises:
        UsageError: the run computes in floats.
    """
    require_integers(trained, "a board")
    program = program_bytes(trained.program, 0)
    parameters = Parameters(trained.program).pack(trained.parameters)
    constraint = trained.formulas
    text = f"{constraint.offset.text()}, {constraint.factor.text()}".encode() if constraint else b""
    content = program + text + parameters
    blocks = len(trained.parameters.exponents)
    sizes = (trained.program.inputs, len(program), len(text), blocks, len(parameters), crc32(content))
    return pack(stored.HEAD, stored.MAGIC, stored.FORMAT, NUMBERS, *sizes) + content


def check_room(trained: Trained, board: Board) -> None:
    """UsageError if the solver needs more memory than is free on a board."""
    needed = stored.pieces(board_sizes(program_bytes(trained.program, 0)))
    if board.heap_bytes is None or board.piece_bytes is None:
        return
    if sum(needed) > board.heap_bytes or max(needed) > board.piece_bytes:
        raise UsageError(
            f"{trained.name} needs {sum(needed):,} bytes on a board, {max(needed):,} of them in one piece; "
            f"{board.title} has {board.heap_bytes:,}, {board.piece_bytes:,} in one piece: train a smaller network"
        )
