"""What other systems do otherwise, as far as it can be told here: modules, ports, volumes, names and renaming."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest
import serial

from picopinn import boards, cli, flash, problems, runs
from picopinn.device import survey
from picopinn.device.addresses import open_session
from picopinn.errors import PicopinnError, UsageError
from picopinn.link import ports
from picopinn.link.session import LinkLostError
from picopinn.settings import Settings

ROOT = Path(__file__).parents[1]
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
# Windows, as the project's own modules meet it; the libraries below have their own ways there.
WINDOWS = """
import builtins, os, pkgutil, signal, sys

own, missing = {"picopinn", "pinta_model", "ppn"}, {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
real = builtins.__import__

def load(name, globals=None, *rest, **named):
    if name in missing and str((globals or {}).get("__name__")).partition(".")[0] in own:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *rest, **named)

builtins.__import__ = load
for module, names in ((os, ("sched_getaffinity", "openpty", "ttyname", "geteuid")), (signal, ("SIGKILL", "SIGHUP"))):
    for name in names:
        delattr(module, name)

import picopinn, pinta_model
for package in (picopinn, pinta_model):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("._rp2040"):  # a program of its own
            __import__(module.name)
from picopinn import cli
sys.exit(cli.main(sys.argv[1:]))
"""
SMALL = "train poisson2d --hidden 16 --layers 2 --tt 4x4 --rank 2 --batch 8 --steps 3"


def test_every_module_loads_and_a_run_trains_without_posix(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WINDOWS, *SMALL.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "relative L2" in done.stdout


def test_devices_without_terminals_are_refused_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.openpty")
    for address in ("unix", "emulated:rp2040"):
        with pytest.raises(UsageError, match=f"{address} needs pseudo-terminals.*use local or serial:PORT"):
            open_session(address)
    notes = {found.address: found.note for found in survey.survey()}
    assert "pseudo-terminals" in notes["unix"] and "pseudo-terminals" not in notes["local"]


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert cli._cores() == 7


# -- ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["COM3", "COM12", "/dev/cu.usbmodem1101", "/dev/tty.usbmodem1101", "/dev/ttyACM0"])
def test_a_port_is_opened_by_the_name_it_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(serial, "serial_for_url", lambda url, **options: opened.append(url))
    monkeypatch.setattr(ports.list_ports, "comports", list)
    open_session(f"serial:{name}").open_port()
    assert opened == [name]


@pytest.mark.parametrize("name", ["COM7", "/dev/cu.usbmodem1101"])
def test_the_one_board_is_found_under_any_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        device, vid, pid, serial_number = name, 0x2E8A, 5, "E66"

    monkeypatch.setattr(ports.list_ports, "comports", lambda: [Found()])
    opened: list[str] = []
    monkeypatch.setattr(serial, "serial_for_url", lambda url, **options: opened.append(url))
    for address in ("serial:auto", "serial:id:E66"):
        open_session(address).open_port()
    assert opened == [name, name]
    assert flash.find_ports(boards.load("rp2040")) == [name]


# What pyserial says on Windows: WinError within a text, and no number.
SAID = {
    "busy": ("PermissionError(13, 'Access is denied.', None, 5)", UsageError, "COM9 is in use: close the program"),
    "gone": ("FileNotFoundError(2, 'The system cannot find', None, 2)", LinkLostError, "COM9 is not there: plug it in"),
    "dead": ("OSError(22, 'A device is not functioning.', None, 31)", LinkLostError, "not functioning.*is connected"),
}


@pytest.mark.parametrize(("reason", "kind", "told"), SAID.values(), ids=SAID)
def test_windows_words_are_understood(
    reason: str, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, **options: Any) -> None:
        raise serial.SerialException(f"could not open port {url!r}: {reason}")

    monkeypatch.setattr(serial, "serial_for_url", refuse)
    monkeypatch.setattr(ports.list_ports, "comports", list)
    monkeypatch.setattr(ports, "os", SimpleNamespace(name="nt"))
    with pytest.raises(kind, match=told):
        open_session("serial:COM9").connect()


# -- volumes ----------------------------------------------------------------------------------------------------------


def test_volumes_of_linux_may_have_any_name() -> None:
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\n"
        "/dev/sdb1 /media/jürgen/RPI-RP2 vfat rw 0 0\n"
        "/dev/sdc1 /media/MY\\040BOARD msdos rw 0 0\n"
    )
    assert flash._fat(mounts) == [Path("/media/jürgen/RPI-RP2"), Path("/media/MY BOARD")]


@pytest.mark.parametrize(
    ("system", "there", "found"),
    [
        ("win32", ["C:/", "E:/"], ["C:/", "E:/"]),
        ("darwin", ["/Volumes/RPI-RP2", "/Volumes/Macintosh HD"], ["/Volumes/Macintosh HD", "/Volumes/RPI-RP2"]),
    ],
)
def test_volumes_of_others(system: str, there: list[str], found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = PureWindowsPath if system == "win32" else PurePosixPath

    class Fake(kind):  # type: ignore[misc, valid-type]
        def exists(self) -> bool:
            return self.as_posix() in there

        def iterdir(self) -> list[Any]:
            return [Fake(place) for place in there if Fake(place).parent == self]

    monkeypatch.setattr(flash, "Path", Fake)
    monkeypatch.setattr(flash, "sys", SimpleNamespace(platform=system))
    assert [place.as_posix() for place in flash._mounts()] == found


# -- files ------------------------------------------------------------------------------------------------------------


def test_names_of_files_and_runs_are_names_everywhere() -> None:
    folders = ("benchmarks", "docs", "firmware", "host", "kernels_c", "pinta_model", "tests")
    paths = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*")]
    paths += [runs.RUNS / f"{name}-001" for name in problems.names()]
    for path in paths:
        for part in path.parts:
            assert not set('<>:"\\|?*') & set(part) and part[-1] not in ". " and part.isascii()
            assert part.partition(".")[0].lower() not in RESERVED
    whole = [path.as_posix().lower() for path in paths if "__pycache__" not in path.parts]
    assert len(whole) == len(set(whole))  # where letters have no case
    assert PureWindowsPath(*paths[0].parts).parts == paths[0].parts


def held(*arguments: object) -> None:
    raise PermissionError(errno.EACCES, "The process cannot access the file, it is used by another")


def test_a_file_that_another_program_holds_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows does not replace an open file."""
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(runs.os, "replace", held)
    with pytest.raises(PermissionError):
        runs.write_atomic(path, b"new")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("checkpoint.npz", b"old")]


def test_a_checkpoint_that_another_program_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings("poisson2d", directions=2, hidden=4, layers=1, tt=None, precision="float32", batch=4)
    solver = settings.solver(1)
    run = runs.Run.create(tmp_path / "run", settings, solver.state())
    monkeypatch.setattr(runs.os, "replace", held)
    with pytest.raises(PicopinnError, match=r"checkpoint\.npz: The process cannot.*step 0 is intact.*--resume"):
        run.save([], solver.state(), 0.0)
    assert runs.Run.open(tmp_path / "run").checkpoint.step == 0


def test_a_run_never_takes_a_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """POSIX renames onto an empty folder, Windows refuses: either way a run that exists is told."""
    settings = Settings("poisson2d", directions=2, hidden=4, layers=1, tt=None, precision="float32", batch=4)

    def refuse(self: Path, target: Path) -> None:
        raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(runs.RunExistsError, match="exists: continue it with --resume"):
        runs.Run.create(tmp_path / "run", settings, settings.solver(1).state())
    assert list(tmp_path.iterdir()) == []
