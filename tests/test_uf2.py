"""UF2 files: what is written is read back, and every kind of damage is named."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopinn import uf2
from picopinn.errors import UsageError

RP2040 = 0xE48BFF56
START = 0x10000000


def _filled(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // uf2.SECTOR) * uf2.SECTOR, b"\xff")


@given(st.binary(min_size=1, max_size=9000), st.binary(min_size=1, max_size=5000))
def test_regions_survive(first: bytes, second: bytes) -> None:
    regions = {START: first, START + 0x100000: second}
    found = uf2.decode(uf2.encode(regions, RP2040), RP2040)
    assert found == {address: _filled(data) for address, data in regions.items()}


def test_blocks_are_as_the_format_says() -> None:
    data = uf2.encode({START: bytes(range(256)) * 17}, RP2040)
    assert len(data) == 32 * 512  # 17 pages filled up to two sectors
    block = data[16 * 512 : 17 * 512]
    assert struct.unpack("<8I", block[:32]) == (0x0A324655, 0x9E5D5157, 0x2000, START + 4096, 256, 16, 32, 0xE48BFF56)
    assert block[32:288] == bytes(range(256))
    assert not any(block[288:508])
    assert block[508:] == bytes.fromhex("306fb10a")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: data[:512], "block 0 of 16 where 0 of 1 belongs"),
        (lambda data: data[:512] + b"X" + data[513:], "block 1 is damaged"),
        (lambda data: data[:1023] + b"X" + data[1024:], "block 1 is damaged"),
        (lambda data: data[512:1024] + data[:512] + data[1024:], "block 1 of 16 where 0 of 16 belongs"),
        (lambda data: data[:28] + b"\x59" + data[29:], "block 0 is for family 0xe48bff59"),
        (lambda data: data[:12] + b"\x01" + data[13:], "writes 256 bytes at 0x10000001"),
    ],
)
def test_damage_is_named(damage, said) -> None:
    with pytest.raises(UsageError, match=said):
        uf2.decode(damage(uf2.encode({START: b"picopinn"}, RP2040)), RP2040)
