"""UF2, the file format in which a boot loader takes the contents of flash (https://github.com/microsoft/uf2)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from .errors import UsageError

BLOCK = 512  # bytes of a block in the file
PAGE = 256  # bytes of flash that a block carries
SECTOR = 4096  # bytes of flash that are erased together
_HEADER = struct.Struct("<8I")  # magic, magic, flags, address, size, number, count, family
_MAGIC = (0x0A324655, 0x9E5D5157)
_END = 0x0AB16F30
_HAS_FAMILY = 0x2000


def encode(regions: Mapping[int, bytes], family: int) -> bytes:
    """A file that writes each region's bytes at its address, a multiple of ``SECTOR``.

    Regions are filled up with 0xFF to whole sectors: the RP2040's boot loader may lose pages of a sector that a file
    writes only in part (erratum RP2040-E14).
    """
    pages = [
        (address + at, data[at : at + PAGE].ljust(PAGE, b"\xff"))
        for address, data in sorted(regions.items())
        for at in range(0, -(-len(data) // SECTOR) * SECTOR, PAGE)
    ]
    return b"".join(
        (_HEADER.pack(*_MAGIC, _HAS_FAMILY, address, PAGE, number, len(pages), family) + page).ljust(BLOCK - 4, b"\0")
        + _END.to_bytes(4, "little")
        for number, (address, page) in enumerate(pages)
    )


def decode(data: bytes, family: int) -> dict[int, bytes]:
    """The regions of a file, adjoining pages joined; every block is checked.

    Raises:
        UsageError: the file is cut short, a block is damaged or out of order, or it is for another family of chips.
    """
    if not data or len(data) % BLOCK:
        raise _damaged(f"{len(data)} bytes are not whole blocks of {BLOCK}; the file is cut short")
    regions: dict[int, bytearray] = {}
    start = end = -1
    for number in range(len(data) // BLOCK):
        address, page = _decode_block(data[number * BLOCK : (number + 1) * BLOCK], number, len(data) // BLOCK, family)
        if address != end:
            start = address
            regions[start] = bytearray()
        regions[start] += page
        end = address + PAGE
    return {address: bytes(region) for address, region in regions.items()}


def _decode_block(block: bytes, number: int, count: int, family: int) -> tuple[int, bytes]:
    first, second, flags, address, size, found_number, found_count, found_family = _HEADER.unpack_from(block)
    if (first, second) != _MAGIC or int.from_bytes(block[-4:], "little") != _END:
        raise _damaged(f"block {number} is damaged")
    if (found_number, found_count) != (number, count):
        raise _damaged(f"block {found_number} of {found_count} where {number} of {count} belongs")
    if not flags & _HAS_FAMILY or found_family != family:
        found = f"block {number} is for family {found_family:#x}, not {family:#x}"
        raise UsageError(f"UF2: {found}: take a file for this kind of board")
    if size != PAGE or address % PAGE:
        raise _damaged(f"block {number} writes {size} bytes at {address:#x}, not a page of {PAGE}")
    return address, block[_HEADER.size : _HEADER.size + PAGE]


def _damaged(what: str) -> UsageError:
    return UsageError(f"UF2: {what}: copy the file anew")
