"""One run, one set of weights, whatever computes it: this computer, MicroPython here, an image in an emulator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = "train poisson2d --steps 20 --hidden 64 --tt 8x8 --batch 16 --quiet"
BODIES = {
    "unix": "--device unix",
    "emulated, one core": "--device emulated:rp2040 --cores 1",
    "emulated, both cores": "--device emulated:rp2040 --cores 2",
}
CHANGES = [("unix", "emulated, both cores"), ("emulated, both cores", "local"), ("local", "unix")]
STOPPED = """
import os, signal, sys
from picopinn import cli, train

step = train._step

def stopping(solver, *rest):
    row = step(solver, *rest)
    if solver.step_number == 10:
        os.kill(os.getpid(), signal.SIGINT)
    return row

train._step = stopping
sys.exit(cli.main(sys.argv[1:]))
"""

Picopinn = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def _tools(micropython: Path, bare_image: Path) -> None:
    """Both bodies need what `invoke setup` builds."""


@pytest.fixture
def picopinn(tmp_path: Path) -> Picopinn:
    """Runs the command line as a person does. An access at which a real board faults comes to light on stderr."""

    def run(arguments: str, *, script: str = "", code: int = 0, says: str = "") -> None:
        program = ["-c", script] if script else ["-m", "picopinn.cli"]
        command = [sys.executable, *program, *arguments.split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert says in done.stderr if says else not done.stderr, done.stderr
        assert "aligned" not in done.stderr

    return run


def weights(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_sha256"])


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights that this computer's own kernels give."""
    folder = tmp_path_factory.mktemp("local")
    subprocess.run([sys.executable, "-m", "picopinn.cli", *COMMAND.split(), "--run", folder / "run"], check=True)
    return weights(folder / "run")


@pytest.mark.parametrize("body", BODIES)
def test_every_body_gives_the_same_weights(body: str, known: str, picopinn: Picopinn, tmp_path: Path) -> None:
    picopinn(f"{COMMAND} {BODIES[body]} --run run")
    assert weights(tmp_path / "run") == known


@pytest.mark.parametrize(("first", "second"), CHANGES)
def test_a_run_that_changes_its_body_half_way(
    first: str, second: str, known: str, picopinn: Picopinn, tmp_path: Path
) -> None:
    picopinn(f"{COMMAND} {BODIES.get(first, '')} --run run", script=STOPPED, code=130, says="saved at step 10 of 20")
    picopinn(f"train --resume run --quiet {BODIES.get(second, '')}")
    assert weights(tmp_path / "run") == known
