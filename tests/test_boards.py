"""Descriptions of boards: those that are here, one that is added, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware.tools import natmod
from picopinn import boards
from picopinn.errors import UsageError

GOOD = (boards.firmware_folder() / "boards/rp2040.toml").read_text()


@pytest.mark.parametrize("name", boards.names())
def test_every_board_is_sound_and_has_a_module(name: str) -> None:
    board = boards.load(name)
    assert board.name == name
    assert board.arch in natmod.TARGETS
    assert natmod.prebuilt(board.arch).is_file()
    if board.filesystem and board.bootloader:
        assert board.filesystem.start > board.bootloader.start
        assert board.filesystem.start % board.filesystem.block_bytes == 0


def test_machines_tell_boards_apart() -> None:
    machines = [boards.load(name).machine for name in boards.names()]
    assert len(set(machines)) == len(machines)


def test_adding_a_board_is_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards/mine.toml").write_text(GOOD.replace("Raspberry Pi Pico", "My own"))
    monkeypatch.setattr(boards, "firmware_folder", lambda: tmp_path)
    assert boards.names() == ["mine"]
    assert boards.load("mine").title == "My own"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('arch = "armv6m"', "", "'arch' is missing; known are name, title"),
        ("cores = 2", "cores = 2\ncolour = 1", "unknown key 'colour'"),
        ("cores = 2", "cores = 0", "cores = 0 is not a number above 0"),
        ("cores = 2", "cores = true", "cores = True is not a number"),
        ("cores = 2", 'cores = "2"', "cores = '2' is not a number"),
        ('"2e8a:0005"', '"2E8A/5"', "not a list of ids such as"),
        ('arch = "armv6m"', "arch = 6", "arch = 6 is not a text"),
        ("blocks = 352", "", r"\[filesystem\] 'blocks' is missing"),
        ("[bootloader]", "bootloader = 1\n[other]", r"\[bootloader\] is not a table"),
        ("cores = 2", "cores =", "mine.toml: Invalid value"),
    ],
)
def test_a_wrong_description_is_told_what_is_wrong(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError, match=f"mine.toml.*{said}" if "mine" not in said else said):
        boards.read(path)


def test_an_unknown_board_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match="no board 'rp2041'; there are rp2040, rp2350, stm32f4"):
        boards.load("rp2041")
