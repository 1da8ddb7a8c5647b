"""What all tests share: finding the tools that some of them need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from picopinn import boards, toolchain, uf2
from tests.browser import Browser

Need = Callable[[str, str], list[str]]
Found = TypeVar("Found")


def _find(tool: str) -> list[str] | None:
    """The command that starts a program on PATH or, failing that, a Python module of that name."""
    path = shutil.which(tool)
    if path:
        return [path]
    return [sys.executable, "-m", tool] if importlib.util.find_spec(tool.replace("-", "_")) else None


@pytest.fixture(scope="session")
def need() -> Need:
    """``need(tool, fix)`` answers the command of a tool; without it a test fails in CI and is skipped elsewhere."""

    def command(tool: str, fix: str) -> list[str]:
        found = _find(tool)
        if found:
            return found
        _lacks(f"{tool} is not here; to have it: {fix}")

    return command


@pytest.fixture(scope="session")
def micropython() -> Path:
    """MicroPython's unix port."""
    return _built(toolchain.unix_port)


@pytest.fixture(scope="session")
def bare_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UF2 image of MicroPython for the RP2040 with an empty file system."""
    firmware = _built(lambda: toolchain.board_firmware("rp2040"))
    image = tmp_path_factory.mktemp("image") / "bare.uf2"
    bootloader = boards.load("rp2040").bootloader
    assert bootloader
    image.write_bytes(uf2.encode({bootloader.start: firmware.read_bytes()}, bootloader.family))
    return image


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser without a screen."""
    opened = Browser(_built(toolchain.browser), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def runtime() -> Callable[[str], toolchain.Runtime]:
    """A runtime of TensorFlow Lite, by its name."""
    return lambda name: _built(lambda: toolchain.runtime(name))


def _built(find: Callable[[], Found]) -> Found:
    try:
        return find()
    except toolchain.ToolchainError as error:
        _lacks(str(error))


def _lacks(reason: str) -> NoReturn:
    """In CI everything is there, or the run fails; elsewhere a person may do without."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
