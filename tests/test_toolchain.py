"""The toolchain's cache and what it says where a part is missing; that it builds at all, other tests show."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from picopinn import toolchain
from picopinn.toolchain import ToolchainError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no checkout."""
    monkeypatch.setenv("PICOPINN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PICOPINN_MICROPYTHON", raising=False)
    return tmp_path / "cache"


def test_what_fails_leaves_nothing_behind(cache: Path) -> None:
    def make(place: Path) -> None:
        (place / "half").touch()
        raise ToolchainError("no more")

    with pytest.raises(ToolchainError, match="no more"):
        toolchain._cached("part", "1", make)
    assert [path.name for path in cache.iterdir()] == ["part.lock"]


def test_two_that_want_the_same_build_it_once() -> None:
    made: list[Path] = []

    def make(place: Path) -> None:
        made.append(place)
        time.sleep(0.2)
        (place / "whole").touch()

    found: list[Path] = []
    wanting = [threading.Thread(target=lambda: found.append(toolchain._cached("part", "1", make))) for _ in range(3)]
    for thread in wanting:
        thread.start()
    for thread in wanting:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert (found[0] / "whole").exists()


def test_a_recipe_that_changes_is_another_build() -> None:
    keys = {
        toolchain._key(make, *more) for make in (toolchain._fetch, toolchain._build_unix) for more in ((), ("12.2",))
    }
    assert len(keys) == 4


def test_what_is_not_built_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="run `invoke setup`"):
        toolchain.unix_port()
    with pytest.raises(ToolchainError, match="is built for rp2040, rp2350, not stm32f4"):
        toolchain.board_firmware("stm32f4")
    monkeypatch.setattr(toolchain, "sources", lambda build=False: toolchain.Sources(tmp_path, tmp_path))
    monkeypatch.setattr(toolchain, "_output", lambda command: "12.2.1")
    with pytest.raises(ToolchainError, match="run `invoke setup --board rp2350`"):
        toolchain.board_firmware("rp2350")


def test_a_checkout_must_have_its_submodules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOPINN_MICROPYTHON", str(tmp_path))
    needed = ["tools/mpy_ld.py", "py/dynruntime.mk", "lib/pico-sdk/src", "lib/tinyusb/src"]
    for part in needed:
        with pytest.raises(ToolchainError, match=f"has no {part}: .*`make -C ports/rp2 submodules`"):
            toolchain.sources()
        (tmp_path / part).mkdir(parents=True)
    assert toolchain.sources().micropython == tmp_path


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda program: None if "arm" in program else f"/bin/{program}")
    assert toolchain.missing_packages() == ["gcc-arm-none-eabi", "qemu-system-arm", "libnewlib-arm-none-eabi"]


def test_any_browser_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda program: None if "chrom" in program else f"/bin/{program}")
    assert toolchain.missing_packages() == ["chromium-headless-shell"]
    with pytest.raises(ToolchainError, match="no Chromium is here: run `invoke setup`"):
        toolchain.browser()
    monkeypatch.setattr(toolchain.shutil, "which", lambda program: f"/bin/{program}" if program != "chromium" else None)
    assert toolchain.missing_packages() == []
    assert toolchain.browser() == Path("/bin/chromium-headless-shell")


def test_without_apt_a_checkout_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda program: None)
    with pytest.raises(ToolchainError, match=r"no apt-get here .* in PICOPINN_MICROPYTHON"):
        toolchain.sources(build=True)


def test_a_failure_tells_the_line_that_matters_and_where_all_is(cache: Path) -> None:
    cache.mkdir()
    with pytest.raises(ToolchainError, match=r"sh -c .* failed, see .*failed\.log: x\.c:1: error: wrong"):
        toolchain._run("sh", "-c", "echo fine; echo 'x.c:1: error: wrong'; echo make: stopped; exit 2")
    assert "stopped" in (cache / "failed.log").read_text()
