"""The emulated RP2040 and the unix port, as serial ports: they answer, come back after a reset, and end with us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from mpremote.transport_serial import SerialTransport

from picopinn.errors import PicopinnError, UsageError
from picopinn.link.emulator import EmulatedBoard, UnixBoard

ECHO = "import sys\nwhile True:\n    sys.stdout.buffer.write(sys.stdin.buffer.read(1))\n"
LOAD = """
import array, uctypes
@micropython.asm_thumb
def load(r0):
    ldr(r0, [r0, 0])
words = array.array('I', (1, 2))
print(load(uctypes.addressof(words) + {offset}))
"""


@contextlib.contextmanager
def _repl(port: str) -> Iterator[SerialTransport]:
    board = SerialTransport(port, timeout=10)
    board.enter_raw_repl(soft_reset=False)
    try:
        yield board
    finally:
        board.close()


def test_a_board_runs_both_cores_and_keeps_its_files_over_a_reset(bare_image: Path) -> None:
    with contextlib.closing(EmulatedBoard(bare_image)) as emulated:
        with _repl(emulated.port) as board:
            assert b"RP2040" in board.exec("import sys; print(sys.implementation._machine)")
            board.exec("import _thread\nnumbers = []\n_thread.start_new_thread(lambda: numbers.append(7), ())")
            assert board.exec("import time; time.sleep_ms(1); print(numbers)") == b"[7]\r\n"
            board.fs_writefile("kept.txt", b"kept")
        emulated.reset()
        with _repl(emulated.port) as board:
            assert board.exec("print('numbers' in globals())") == b"False\r\n"
            assert board.fs_readfile("kept.txt") == b"kept"


def test_systick_and_the_timer_agree(bare_image: Path) -> None:
    """Cycles read on the board follow one model: 125 a microsecond."""
    with contextlib.closing(EmulatedBoard(bare_image)) as emulated, _repl(emulated.port) as board:
        board.exec(
            "import machine, time\nfrom machine import mem32\nmem32[0xE000E014] = 0xFFFFFF\nmem32[0xE000E010] = 5"
        )
        said = board.exec(
            "a = mem32[0xE000E018]; t = time.ticks_us(); time.sleep_ms(5); b = mem32[0xE000E018]\n"
            "print(((a - b) & 0xFFFFFF) / time.ticks_diff(time.ticks_us(), t))"
        )
        assert float(said) == pytest.approx(125, rel=0.02)


@pytest.mark.parametrize(("offset", "faults"), [(0, False), (2, True)])
def test_a_load_that_would_fault_is_an_error(bare_image: Path, offset: int, faults: bool) -> None:
    emulated = EmulatedBoard(bare_image)
    with _repl(emulated.port) as board:
        board.exec(LOAD.format(offset=offset))
    with pytest.raises(PicopinnError, match="would have faulted 1 times") if faults else contextlib.nullcontext():
        emulated.close()


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="invoke build"):
        EmulatedBoard(tmp_path / "missing.uf2")
    (tmp_path / "bad.uf2").write_bytes(bytes(512))
    with pytest.raises(PicopinnError, match="ended by itself: ValueError: Invalid UF2"):
        EmulatedBoard(tmp_path / "bad.uf2")


def test_the_emulator_ends_with_the_process_that_started_it(bare_image: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from picopinn.link.emulator import EmulatedBoard\n"
        "board = EmulatedBoard(Path(sys.argv[1])); print(board._process.pid, flush=True); time.sleep(60)"
    )
    host = subprocess.Popen([sys.executable, "-c", script, str(bare_image)], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    emulator = int(host.stdout.readline())
    host.send_signal(signal.SIGKILL)
    host.communicate()
    for _ in range(100):
        if not _runs(emulator):
            return
        time.sleep(0.1)
    os.kill(emulator, signal.SIGKILL)
    pytest.fail("the emulator outlived its host")


def _runs(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_the_unix_port_answers_every_byte_and_every_client(micropython: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(ECHO)
    every = bytes(byte for byte in range(256) if byte != 3)  # 3 interrupts, until a program says otherwise
    with contextlib.closing(UnixBoard(micropython, tmp_path)) as unix:
        for _ in range(2):
            with serial.Serial(unix.port, timeout=10, exclusive=True) as link:
                link.write(every)
                assert link.read(len(every)) == every


def test_a_program_that_fails_under_the_unix_port_is_named(micropython: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import nothing_of_this_name")
    unix = UnixBoard(micropython, tmp_path)
    unix._process.wait(10)
    with pytest.raises(PicopinnError, match="ImportError: no module named 'nothing_of_this_name'"):
        unix.close()
    with pytest.raises(UsageError, match="invoke setup"):
        UnixBoard(tmp_path / "micropython", tmp_path)
