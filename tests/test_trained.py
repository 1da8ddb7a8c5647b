"""A trained solver at MicroPython's prompt, here and on the emulated board: the bits of ``Solver.predict``."""

from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hard
import numpy as np
import pytest
from mpremote.transport_serial import SerialTransport
from ppn import stored

from picopinn import Problem, boards, cli, flash, image
from picopinn.device.packing import program_bytes
from picopinn.export import Trained, board, for_board
from picopinn.kernels import board_sizes
from picopinn.link.emulator import EmulatedBoard
from picopinn.network import Floats
from picopinn.problems import get, names
from picopinn.runs import Run
from picopinn.settings import Settings

SMALL = {"hidden": 16, "layers": 2, "tt": (4, 4), "rank": 3, "batch": 8, "steps": 30, "learning_rate": 1e-2}
KINDS = {
    "prs": SMALL,
    "sequential": {**SMALL, "contraction": "sequential"},
    "sine": {**SMALL, "activation": "sine", "precision": "w12a8g12"},
    "dense": {**SMALL, "hidden": 13, "tt": None},
    "large": {"steps": 1},  # the default network
}
POINTS = [(0.3, 0.7), (0.1, 0.2), (0.0, 0.0), (1.0, 1.0), (0.123456, 0.9), (-2.5, 1e-3), (1e-30, 0.0)]

Saved = Callable[[str], tuple[Path, Trained]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A run of a kind, and its solver."""
    folder = tmp_path_factory.mktemp("runs")

    def find(kind: str) -> tuple[Path, Trained]:
        if not (folder / kind).exists():
            settings = Settings("poisson2d", **KINDS[kind])
            solver = settings.solver(1)
            solver.train()
            Run.create(folder / kind, settings, solver.state())
        return folder / kind, Trained.of(Run.open(folder / kind))

    return find


def singles(points: list[tuple[float, ...]]) -> Floats:
    """What a board's 32-bit floats make of numbers."""
    return np.array(points, np.float32).astype(np.float64)


# ---- on this computer: its MicroPython has 64-bit floats, so every bit shows


@pytest.fixture
def prompt(micropython: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in a folder with the application, and files by name."""
    for path, content in image.application("x64").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)

    def run(program: str, **files: bytes) -> subprocess.CompletedProcess[str]:
        for name, content in files.items():
            (tmp_path / f"{name}.ppn").write_bytes(content)
        return subprocess.run([micropython, "-c", program], cwd=tmp_path, capture_output=True, text=True)

    return run


PROGRAM = """
import ppn
from struct import pack
u = ppn.solver("poisson2d")
print([pack("d", v).hex() for v in u.values({points})])
print([pack("d", u(*x)).hex() for x in {points}])
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_under_the_unix_port(
    kind: str, saved: Saved, prompt: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    _, one = saved(kind)
    done = prompt(PROGRAM.format(points=POINTS), poisson2d=board.write(one))
    assert not done.stderr, done.stderr
    together, apart = (
        np.array([struct.unpack("d", bytes.fromhex(v))[0] for v in eval(line)]) for line in done.stdout.splitlines()
    )
    np.testing.assert_array_equal(together, one.solver.predict(np.array(POINTS)))
    np.testing.assert_array_equal(apart, [one.solver.predict(np.array([x]))[0] for x in POINTS])


@pytest.mark.parametrize("problem", [hard.Wave, hard.Ball, *map(get, names())])
def test_every_problem_has_its_values(
    problem: type[Problem], prompt: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    one = Trained(hard.solver(problem()))
    points = one.problem.interior(np.random.default_rng(0), 6)
    program = f"import ppn; print(ppn.solver('{one.name}').values({points.tolist()}))"
    done = prompt(program, **{one.name: board.write(one)})
    assert not done.stderr, done.stderr
    np.testing.assert_allclose(eval(done.stdout), one.solver.predict(points), rtol=1e-11)


def spoiled(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


BAD: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "none": ("ppn.solver('laplace')", lambda c: c, "OSError: no laplace.ppn on this board: there are poisson2d.ppn"),
    "no solver": (
        "ppn.solver('poisson2d')",
        lambda c: b"hello",
        "ValueError: poisson2d.ppn is no solver: picopinn export",
    ),
    "another format": (
        "ppn.solver('poisson2d')",
        lambda c: spoiled(c, 4),
        "ValueError: poisson2d.ppn is for another picopinn",
    ),
    "other numbers": (
        "ppn.solver('poisson2d')",
        lambda c: spoiled(c, 6),
        "ValueError: poisson2d.ppn is for another picopinn",
    ),
    "a bad program": (
        "ppn.solver('poisson2d')",
        lambda c: spoiled(c, 28),
        "ValueError: poisson2d.ppn is damaged: put it",
    ),
    "a bad weight": (
        "ppn.solver('poisson2d')",
        lambda c: spoiled(c, len(c) - 9),
        "ValueError: poisson2d.ppn is damaged",
    ),
    "cut short": ("ppn.solver('poisson2d')", lambda c: c[:-1], "ValueError: poisson2d.ppn is damaged: put it"),
    "one number": ("ppn.solver('poisson2d')(1)", lambda c: c, "TypeError: poisson2d takes 2 coordinates, got 1"),
    "infinite": ("ppn.solver('poisson2d')(1, float('inf'))", lambda c: c, "ValueError: coordinates are finite numbers"),
    "no number": (
        "ppn.solver('poisson2d')(1, float('nan'))",
        lambda c: c,
        "ValueError: coordinates are finite numbers",
    ),
}


@pytest.mark.parametrize(("program", "spoil", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told(
    program: str,
    spoil: Callable[[bytes], bytes],
    said: str,
    saved: Saved,
    prompt: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = prompt(f"import ppn\n{program}", poisson2d=spoil(board.write(saved("prs")[1])))
    assert said in done.stderr.splitlines()[-1]


def test_without_any_solver_the_command_is_named(prompt: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    last = prompt("import ppn\nppn.solver('poisson2d')").stderr.splitlines()[-1]
    assert last == "OSError: no poisson2d.ppn on this board: picopinn flash --solver RUN puts one here"


# ---- on the emulated board


@pytest.fixture
def bare(bare_image: Path) -> Iterator[EmulatedBoard]:
    """A board with MicroPython and no file."""
    with contextlib.closing(EmulatedBoard(bare_image)) as emulated:
        yield emulated


def put(port: str, one: Trained) -> None:
    """The application and a solver onto a board, which then serves."""
    kind = boards.load("rp2040")
    flash.flash(kind, lambda: b"", cli._ask, lambda *_: None, port=port, solvers=for_board([one], kind))


def ask(board: SerialTransport, program: str) -> str:
    return str(board.exec(program).decode().strip())


def test_a_flashed_board_evaluates_and_serves(
    saved: Saved, bare_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image with the application and a solver, as `picopinn flash --solver` copies it; then another by the port."""
    volume = tmp_path / "RPI-RP2"
    volume.mkdir()
    (volume / flash.INFO).write_text("Board-ID: RPI-RP2\r\n")
    run, one = saved("large")
    assert cli.main(["flash", "--board", "rp2040", "--volume", str(volume), "--solver", str(run)]) == 0
    with contextlib.closing(EmulatedBoard(next(volume.glob("*.uf2")))) as emulated:
        assert_evaluates(emulated.port, one)
        other, small = saved("sine")
        assert cli.main(["flash", "--board", "rp2040", "--port", emulated.port, "--solver", str(other)]) == 0
        assert_evaluates(emulated.port, small)


def assert_evaluates(port: str, one: Trained) -> None:
    with flash.prompt_at(port) as prompt:
        prompt.exec("import ppn; from struct import pack; u = ppn.solver('poisson2d')")
        for points, program in ((POINTS[:1], "[u(0.3, 0.7)]"), (POINTS, f"u.values({POINTS})")):
            said = ask(prompt, f"print(b''.join([pack('f', v) for v in {program}]).hex())")
            expected = one.solver.predict(singles(points)).astype("<f4")
            assert said == expected.tobytes().hex()
        assert (
            ask(prompt, "print(pack('f', u(0.3, 0.7)).hex())")
            == one.solver.predict(singles(POINTS[:1])).astype("<f4").tobytes().hex()
        )


def test_a_board_computes_constraints_in_its_floats(bare: EmulatedBoard) -> None:
    one = Trained(hard.solver(hard.Wave()))
    points = one.problem.interior(np.random.default_rng(0), 5)
    put(bare.port, one)
    with flash.prompt_at(bare.port) as prompt:
        said = ask(prompt, f"import ppn; print(ppn.solver('wave').values({points.tolist()}))")
    np.testing.assert_allclose(eval(said), one.solver.predict(points), rtol=1e-5, atol=1e-6)


def test_a_board_without_room_says_how_much_it_takes(saved: Saved, bare: EmulatedBoard) -> None:
    one = saved("large")[1]
    needed = sum(stored.pieces(board_sizes(program_bytes(one.program, 0))))
    put(bare.port, one)
    with flash.prompt_at(bare.port) as prompt:
        prompt.exec("import ppn, gc; from ppn import native, trained; gc.collect(); kept = []")
        prompt.exec("while gc.mem_free() > 40000: kept.append(bytearray(4000))")
        said = ask(prompt, "try: ppn.solver('poisson2d')\nexcept MemoryError as error: print(error)")
    assert said.startswith(f"poisson2d takes {needed} bytes, ") and said.endswith("are free: reset the board")
