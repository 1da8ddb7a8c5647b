"""How a trained solver lies in a file: a head, a program as CONFIGURE has it, the text of a hard constraint or nothing,
and parameters as WRITE has them. The text is ``offset, factor``, both of a point ``x``: u = offset + factor N.
"""

from . import messages

SUFFIX = ".ppn"
MAGIC, FORMAT = b"u(x)", 2
HEAD = "<4s4H4I"  # MAGIC, FORMAT, version of numbers, inputs, program bytes; text bytes, blocks, parameter bytes, CRC
FUNCTIONS = ("sin", "cos", "exp", "log", "sqrt")  # of ``math``, that a text may name
BLOCK = 33  # bytes of a parameter block, unpacked


def pieces(sizes: tuple[int, ...]) -> list[int]:
    """Bytes of memory that a solver takes, piece by piece, the largest first; ``sizes`` are those of REGIONS."""
    own = [sizes[messages.REGIONS.index(name)] for name in ("device", "weights", "rows", "scratch", "numbers")]
    return sorted([messages.tape_bytes(sizes, 1)] + own, reverse=True)  # noqa: RUF005 -- MicroPython has no such display
