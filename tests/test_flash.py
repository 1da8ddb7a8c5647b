"""Flashing: the image, a boot loader's volume that is a folder, and an emulated board at a serial port."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from picopinn import boards, cli, flash, image, toolchain, uf2
from picopinn.errors import UsageError
from picopinn.link import ports
from picopinn.link.emulator import EmulatedBoard

BOARD = boards.load("rp2040")
INFO = "UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: {}\r\n"
FILES = {"main.py": b"print('started')\n", "ppn/one.mpy": b"1" * 3000, "ppn/two.mpy": b"2" * 100}


def _quiet(text: str, share: float | None) -> None:
    """Reports are for people."""


def _ask(port: str) -> dict[str, object]:
    return cli._ask(port)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """What a board with BOOTSEL held looks like."""
    place = tmp_path / "RPI-RP2"
    place.mkdir()
    (place / flash.INFO).write_text(INFO.format("RPI-RP2"))
    return place


@pytest.fixture(scope="session")
def micropython_flash(bare_image: Path) -> bytes:
    """MicroPython alone, as contents of flash."""
    return toolchain.board_firmware("rp2040").read_bytes()


@pytest.fixture
def bare(bare_image: Path) -> Iterator[EmulatedBoard]:
    """A board with MicroPython and no file."""
    with contextlib.closing(EmulatedBoard(bare_image)) as emulated:
        yield emulated


# -- the image --------------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_each_time_and_within_its_places(micropython_flash: bytes) -> None:
    first, second = (image.build(BOARD, micropython_flash) for _ in range(2))
    assert first == second
    assert BOARD.bootloader and BOARD.filesystem
    regions = uf2.decode(first, BOARD.bootloader.family)
    assert regions.pop(BOARD.bootloader.start).startswith(micropython_flash)
    end = BOARD.filesystem.start + BOARD.filesystem.blocks * BOARD.filesystem.block_bytes
    assert all(BOARD.filesystem.start <= at and at + len(data) <= end for at, data in regions.items())


def test_micropython_may_come_out_of_a_file(bare_image: Path, micropython_flash: bytes) -> None:
    assert image.micropython_of(BOARD, bare_image).startswith(micropython_flash)
    with pytest.raises(UsageError, match="family 0xe48bff56, not 0xe48bff59"):
        image.micropython_of(boards.load("rp2350"), bare_image)


# -- a volume ---------------------------------------------------------------------------------------------------------


def test_a_board_boots_what_was_copied_to_its_volume(volume: Path, micropython_flash: bytes) -> None:
    told: list[tuple[str, float | None]] = []
    flash.flash(BOARD, lambda: micropython_flash, _ask, lambda *report: told.append(report), volume)
    shares = [share for _, share in told if share is not None]
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 10
    (copied,) = volume.glob("*.uf2")
    assert BOARD.bootloader
    uf2.decode(copied.read_bytes(), BOARD.bootloader.family)
    with contextlib.closing(EmulatedBoard(copied)) as emulated:
        info = _ask(emulated.port)
    assert info["application"] == image.digest(image.application(BOARD.arch))


def test_volumes_of_other_things_are_told_apart(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other, strange = (tmp_path / name for name in ("plain", "other", "strange"))
    for place in (plain, other, strange):
        place.mkdir()
    (other / flash.INFO).write_text(INFO.format("RP2350"))
    (strange / flash.INFO).write_text(INFO.format("SAMD21"))
    monkeypatch.setattr(flash, "_mounts", lambda: [plain, other, strange, volume])
    assert flash.find_volumes(BOARD) == [volume]


def _failing_sync(times: int, before: Callable[[], object]) -> Callable[[int], None]:
    left = iter(range(times))

    def fsync(_file: int) -> None:
        if next(left, None) is None:
            before()
            raise OSError(5, "Input/output error")

    return fsync


def test_a_volume_may_vanish_with_the_last_block(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a board's, which starts at once."""
    monkeypatch.setattr(os, "fsync", _failing_sync(6, lambda: shutil.rmtree(volume)))
    flash.copy(BOARD, bytes(100_000), volume, _quiet)
    assert not volume.exists()


# -- which board ------------------------------------------------------------------------------------------------------


def test_ports_are_known_by_their_usb_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    class Port:
        def __init__(self, device: str, vid: int | None, pid: int | None) -> None:
            self.device, self.vid, self.pid = device, vid, pid

    found = [Port("/b", 0x2E8A, 5), Port("/a", 0x2E8A, 5), Port("/c", 0x2E8A, 3), Port("/d", None, None)]
    monkeypatch.setattr(ports.list_ports, "comports", lambda: found)
    assert flash.find_ports(BOARD) == ["/a", "/b"]


# -- a port -----------------------------------------------------------------------------------------------------------


def test_a_board_with_micropython_gets_what_differs_and_answers(bare: EmulatedBoard) -> None:
    files = image.application(BOARD.arch)
    flash.flash(BOARD, lambda: b"", _ask, _quiet, port=bare.port)
    assert _ask(bare.port)["application"] == image.digest(files)  # its service runs: the next flash has to end it
    assert flash.push(BOARD, files, bare.port, _quiet) == []
    assert _ask(bare.port)["application"] == image.digest(files)


def test_only_files_that_differ_are_sent(bare: EmulatedBoard) -> None:
    assert flash.push(BOARD, FILES, bare.port, _quiet) == list(FILES)
    fewer = {"main.py": FILES["main.py"], "ppn/one.mpy": b"other"}
    _wait(bare.port)
    assert flash.push(BOARD, fewer, bare.port, _quiet) == ["ppn/one.mpy"]
    _wait(bare.port)
    with flash.prompt_at(bare.port) as prompt:
        assert (
            prompt.exec("import os; print(sorted(os.listdir()), os.listdir('ppn'))")
            == b"['main.py', 'ppn'] ['one.mpy']\r\n"
        )
        assert prompt.fs_readfile("ppn/one.mpy") == b"other"


def _wait(port: str) -> None:
    """Until the board has started again and shows its prompt."""
    with serial.Serial(port, timeout=0.2) as link:
        for _ in range(50):
            link.write(b"\r\n")
            if link.read_until(b">>> ").endswith(b">>> "):
                return
    pytest.fail("the board shows no prompt")


def test_a_busy_port_is_named(bare: EmulatedBoard) -> None:
    with serial.Serial(bare.port, exclusive=True), pytest.raises(UsageError, match="is in use: close the program"):
        flash.push(BOARD, FILES, bare.port, _quiet)


def test_another_board_is_named(bare: EmulatedBoard) -> None:
    with pytest.raises(UsageError, match=r"is Raspberry Pi Pico with RP2040, not Raspberry Pi Pico 2 .*--board rp2040"):
        flash.push(boards.load("rp2350"), FILES, bare.port, _quiet)
