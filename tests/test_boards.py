"""Descriptions of boards: those that are here, one that is added, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware.tools import natmod
from picopinn import boards

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
