"""Frames on a byte stream (docs/spec.md, "wire"); ``natmod/frame.h`` is the twin that a board runs.

A frame is a head, a payload and their CRC-32, stuffed (COBS) so that no byte is 0, and then one byte 0. So a reader
that starts anywhere is in step again after the next 0.
"""

from binascii import crc32
from struct import pack, unpack_from

VERSION = 2  # of frames and messages
HEAD = 4  # bytes before the payload: version, kind, sequence number
_LONGEST = 254  # bytes without a 0 that one code counts


def seal(kind: int, sequence: int, payload: bytes) -> bytes:
    """The frame, its 0 included, of a message of one ``kind`` (0 to 255) with a ``sequence`` number (0 to 65535)."""
    content = pack("<BBH", VERSION, kind, sequence) + payload
    return stuff(content + pack("<I", crc32(content))) + b"\0"


def unseal(frame: bytes) -> tuple[int, int, int, bytes] | None:
    """``(version, kind, sequence, payload)`` of a frame without its 0, or None if it is damaged."""
    content = unstuff(frame)
    if content is None or len(content) < HEAD + 4:
        return None
    body = content[:-4]
    if unpack_from("<I", content, len(body))[0] != crc32(body):
        return None
    version, kind, sequence = unpack_from("<BBH", body, 0)
    return version, kind, sequence, body[HEAD:]


def stuff(content: bytes) -> bytes:
    """COBS: ``content`` without any 0."""
    out = bytearray()
    for run in content.split(b"\0"):
        while len(run) >= _LONGEST:
            out.append(_LONGEST + 1)
            out += run[:_LONGEST]
            run = run[_LONGEST:]
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def unstuff(stuffed: bytes) -> bytes | None:
    """What :func:`stuff` was given, or None if no content gives these bytes."""
    out = bytearray()
    at, end = 0, len(stuffed)
    while at < end:
        code = stuffed[at]
        run = stuffed[at + 1 : at + code]
        if code == 0 or len(run) != code - 1 or 0 in run:
            return None
        out += run
        at += code
        if code <= _LONGEST and at < end:
            out.append(0)
    return bytes(out)
