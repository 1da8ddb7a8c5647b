"""How a trained solver lies in a file: a head, a program as CONFIGURE has it, parameters as WRITE has them."""

from . import messages

SUFFIX = ".ppn"
MAGIC, FORMAT = b"u(x)", 1
HEAD = "<4s4HIII"  # MAGIC, FORMAT, version of numbers, inputs, program bytes; parameter blocks and bytes, CRC-32
BLOCK = 33  # bytes of a parameter block, unpacked


def pieces(sizes: tuple[int, ...]) -> list[int]:
    """Bytes of memory that a solver takes, piece by piece, the largest first; ``sizes`` are those of REGIONS."""
    own = [sizes[messages.REGIONS.index(name)] for name in ("device", "weights", "rows", "scratch", "numbers")]
    return sorted([messages.tape_bytes(sizes, 1)] + own, reverse=True)  # noqa: RUF005 -- MicroPython has no such display
