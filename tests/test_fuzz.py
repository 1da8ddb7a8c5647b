"""The device's side in C under sanitizers, against a host that sends anything: tests/c/fuzz_device.c.

``invoke fuzz`` sends ten million frames; the tests send fewer.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cases import any_spec
from ppn import messages

from picopinn.device.packing import program_bytes

Need = Callable[[str, str], list[str]]
KERNELS = Path(__file__).parents[1] / "kernels_c"
NATMOD = Path(__file__).parents[1] / "firmware/natmod"
SOURCES = [
    Path(__file__).parent / "c" / "fuzz_device.c",
    *(NATMOD / f"{name}.c" for name in ("frame", "session", "device", "solver")),
    *sorted((KERNELS / "src").glob("*.c")),
]
FLAGS = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{KERNELS / 'include'}", f"-I{NATMOD}", "-pthread"]
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FRAMES = int(os.environ.get("PICOPINN_FUZZ_FRAMES", "300000"))
PARTS = 4  # run side by side
TWO_CORES = 2000  # frames: a helper that spins is slow where there are fewer processors than cores
COMPUTING = range(messages.WRITE, messages.READ + 1)


@pytest.fixture(scope="module")
def fuzzer(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[int, tuple[int, int]]]:
    """Sends so many frames; answers how often each kind was executed, and answered."""
    folder = tmp_path_factory.mktemp("fuzz")
    program, programs = folder / "fuzz_device", folder / "programs"
    cases = [any_spec(seed).case() for seed in range(200)]
    texts = [program_bytes(case.program, case.directions) for case in cases]
    programs.write_bytes(b"".join(struct.pack("<I", len(text)) + text for text in texts))
    subprocess.run([*need("gcc", "apt-get install gcc"), *FLAGS, *CHECKS, *SOURCES, "-o", program], check=True)

    def run(frames: int, seed: int, cores: int) -> dict[int, tuple[int, int]]:
        command = [str(word) for word in (program, programs, frames, seed, cores)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stderr[-4000:]}"
        lines = [line.split() for line in done.stdout.splitlines()[1:]]
        return {int(kind): (int(executed), int(answered)) for kind, executed, answered in lines}

    return run


def _assert_all_occurred(counts: dict[int, tuple[int, int]], least: int) -> None:
    """Every request that computes was met, and refused, often enough to mean anything."""
    for kind in COMPUTING:
        executed, answered = counts[kind]
        assert answered >= least, (kind, counts)
        assert executed > answered, (kind, counts)


def test_no_frame_harms_the_device(fuzzer: Callable[..., dict[int, tuple[int, int]]]) -> None:
    """One test, since building takes longer than running: the parts run side by side."""
    frames = FRAMES // PARTS
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(lambda seed: fuzzer(frames, seed, 1), range(PARTS)))
    for counts in parts:
        _assert_all_occurred(counts, frames // 200)
    _assert_all_occurred(fuzzer(TWO_CORES, PARTS, 2), 5)
