"""Frames: the codec of host and board against another one, against its twin in C, and under MicroPython.

What a damaged stream may do to a frame is the property that all of the link rests on: it is lost, or it is the same.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ppn import frames

Need = Callable[[str, str], list[str]]
FIRMWARE = Path(__file__).parents[1] / "firmware"
NATMOD = FIRMWARE / "natmod"
EXPORTED = '#include "frame.c"\nint32_t opened(uint8_t *frame, uint32_t n);\n' + (
    "int32_t opened(uint8_t *frame, uint32_t n) { return unstuff(frame, n); }\n"  # static there
)

RUNS = [253, 254, 255, 508, 509]  # about the longest run that one code counts
CONTENTS = [b"", b"\0", b"\0\0", *(bytes([7] * n) for n in RUNS), *(bytes([7] * n) + b"\0" for n in RUNS)]
NUMBERS = st.tuples(st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=600))
UNEVEN = st.lists(st.sampled_from([b"\0", b"\1", b"\xff" * 254, b"ab"]), max_size=12).map(b"".join)


# ---- another codec, byte by byte as docs/spec.md W1 has it


def spec_stuff(content: bytes) -> bytes:
    out, run = b"", b""
    for byte in content + b"\0":  # the end counts as one
        if byte == 0:
            out, run = out + bytes([len(run) + 1]) + run, b""
            continue
        run += bytes([byte])
        if len(run) == 254:
            out, run = out + b"\xff" + run, b""
    return out


def spec_crc(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def spec_seal(kind: int, sequence: int, payload: bytes) -> bytes:
    content = bytes([frames.VERSION, kind]) + sequence.to_bytes(2, "little") + payload
    return spec_stuff(content + spec_crc(content).to_bytes(4, "little")) + b"\0"


# ---- Python


@given(NUMBERS)
@example((1, 0, b""))
@example((0, 0, bytes(600)))
def test_a_frame_is_what_the_specification_says(message: tuple[int, int, bytes]) -> None:
    kind, sequence, payload = message
    frame = frames.seal(kind, sequence, payload)
    assert frame == spec_seal(kind, sequence, payload)
    assert frame.find(b"\0") == len(frame) - 1
    assert frames.unseal(frame[:-1]) == (frames.VERSION, kind, sequence, payload)


@given(st.one_of(st.binary(max_size=600), UNEVEN))
def test_stuffing_comes_back(content: bytes) -> None:
    stuffed = frames.stuff(content)
    assert stuffed == spec_stuff(content)
    assert 0 not in stuffed
    assert frames.unstuff(stuffed) == content
    assert len(stuffed) <= len(content) + len(content) // 254 + 1


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: f"{len(content)}")
def test_stuffing_at_the_edges(content: bytes) -> None:
    assert frames.stuff(content) == spec_stuff(content)
    assert frames.unstuff(spec_stuff(content)) == content


@given(st.binary(max_size=100))
def test_crc_is_zlibs(content: bytes) -> None:
    assert spec_crc(content) == zlib.crc32(content)


def received(stream: bytes) -> list[tuple[int, int, int, bytes]]:
    """What a reader makes of a stream: the messages of its undamaged frames."""
    opened = [frames.unseal(piece) for piece in stream.split(b"\0") if piece]
    return [message for message in opened if message is not None]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.tuples(st.integers(0, 255), st.integers(0, 65535), st.one_of(st.binary(max_size=60), UNEVEN)), st.data())
def test_any_one_byte_wrong_loses_the_frame_or_nothing(message: tuple[int, int, bytes], data: st.DataObject) -> None:
    """At every byte: one flipped, one lost, one there twice, one put in between. The frame behind always arrives."""
    frame, behind = frames.seal(*message), frames.seal(9, 7, b"behind")
    sent, next_sent = (frames.VERSION, *message), (frames.VERSION, 9, 7, b"behind")
    flip, more = data.draw(st.integers(1, 255)), data.draw(st.binary(min_size=1, max_size=1))
    for at in range(len(frame)):
        head, byte, tail = frame[:at], frame[at], frame[at + 1 :]
        for damaged in (
            head + bytes([byte ^ flip]) + tail,
            head + tail,
            head + bytes([byte, byte]) + tail,
            head + more + bytes([byte]) + tail,
        ):
            found = received(damaged + b"\0" + behind)
            assert found in ([next_sent], [sent, next_sent]), (at, damaged)
        assert received(head + b"\0" + behind) in ([next_sent], [sent, next_sent])  # nothing came after


@given(st.one_of(st.binary(max_size=300), UNEVEN))
def test_noise_is_no_message(noise: bytes) -> None:
    assert received(noise) == []


# ---- C


class Twin:
    """natmod/frame.c on this computer."""

    def __init__(self, library: Path) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.ppn_crc32.restype = ctypes.c_uint32

    def crc(self, content: bytes) -> int:
        return int(self._c.ppn_crc32(content, len(content)))

    def seal(self, content: bytes) -> bytes:
        room = len(content) + 4 + (len(content) + 4) // 254 + 2  # PPN_SEALED
        frame = ctypes.create_string_buffer(bytes([0xA5]) * (room + 8), room + 8)
        length = self._c.ppn_seal(content, len(content), frame)
        assert length <= room and frame.raw[room:] == bytes([0xA5]) * 8
        return frame.raw[:length]

    def unseal(self, frame: bytes) -> bytes | None:
        return self._open(self._c.ppn_unseal, frame)

    def unstuff(self, stuffed: bytes) -> bytes | None:
        return self._open(self._c.opened, stuffed)

    def _open(self, function: Callable[..., int], given: bytes) -> bytes | None:
        place = ctypes.create_string_buffer(given + bytes([0xA5]) * 8, len(given) + 8)
        length = function(place, len(given))
        assert length <= len(given) and place.raw[len(given) :] == bytes([0xA5]) * 8
        return None if length < 0 else place.raw[:length]


@pytest.fixture(scope="module")
def twin(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    folder = tmp_path_factory.mktemp("frame")
    (folder / "exported.c").write_text(EXPORTED)
    command = [*need("gcc", "apt-get install gcc"), "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{NATMOD}"]
    subprocess.run([*command, "-shared", "-fPIC", folder / "exported.c", "-o", folder / "frame.so"], check=True)
    return Twin(folder / "frame.so")


def contents(count: int) -> list[bytes]:
    """Contents of messages, some with many zeros, some with none."""
    rng = random.Random(1)
    made = list(CONTENTS)
    for _ in range(count):
        zeros = rng.choice([0, 0.01, 0.5, 1])
        made.append(bytes(0 if rng.random() < zeros else rng.randrange(1, 256) for _ in range(rng.randrange(1200))))
    return made


def test_c_seals_the_same_frames(twin: Twin) -> None:
    for content in contents(300):
        assert twin.crc(content) == zlib.crc32(content)
        frame = spec_stuff(content + zlib.crc32(content).to_bytes(4, "little")) + b"\0"
        assert twin.seal(content) == frame
        assert twin.unseal(frame[:-1]) == content


@settings(max_examples=2000, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from([0, 1, 2, 3, 4, 255]), max_size=300).map(bytes)))
@example(b"\xff" + b"a" * 254)
@example(b"\xff" + b"a" * 254 + b"\1")
@example(b"\xff" + b"a" * 253)
def test_c_opens_what_python_opens(twin: Twin, noise: bytes) -> None:
    assert twin.unstuff(noise) == frames.unstuff(noise)


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.integers(0), st.integers(0, 255))
def test_c_and_python_drop_the_same_frames(twin: Twin, message: tuple[int, int, bytes], place: int, value: int) -> None:
    frame = bytearray(frames.seal(*message)[:-1])
    for at in (0, place % len(frame), len(frame) - 1):
        frame[at] = value
        opened, known = twin.unseal(bytes(frame)), frames.unseal(bytes(frame))
        assert (opened is None) == (known is None)
        if opened is not None and known is not None:
            version, kind, sequence, payload = known
            assert opened == bytes([version, kind]) + sequence.to_bytes(2, "little") + payload


# ---- MicroPython

UNDER_MICROPYTHON = """
from ppn import frames
with open("messages") as file:
    for line in file:
        kind, sequence, payload = line.split(",")
        frame = frames.seal(int(kind), int(sequence), bytes.fromhex(payload.strip()))
        assert frames.unseal(frame[:-1]) == (frames.VERSION, int(kind), int(sequence), bytes.fromhex(payload.strip()))
        damaged = bytes([frame[0] ^ 1]) + frame[1:-1]
        print(frame.hex(), frames.unseal(damaged))
"""


def test_micropython_seals_the_same_frames(micropython: Path, tmp_path: Path) -> None:
    messages = [(k % 256, 40503 * k % 65536, content) for k, content in enumerate(contents(100))]
    lines = [f"{kind},{sequence},{payload.hex()}\n" for kind, sequence, payload in messages]
    (tmp_path / "messages").write_text("".join(lines))
    said = subprocess.run(
        [micropython, "-c", UNDER_MICROPYTHON],
        cwd=tmp_path,
        env={**os.environ, "MICROPYPATH": str(FIRMWARE)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == [f"{frames.seal(*message).hex()} None" for message in messages]
