"""A trained solver at work: our kernels against TensorFlow Lite, one thread, and on an emulated Raspberry Pi Pico.

Each round calls all of them, one after the other; it counts the processor's time of the fastest of a side's calls, so
that what else the machine does matters little. The table has medians of rounds.
Ours is ``Solver.predict``, from reals to reals; of TensorFlow Lite the interpreter's ``invoke`` alone. On the board it
is the time of ``u(0.3, 0.7)`` at MicroPython's prompt, by the board's own clock.

    pip install '.[test]' && invoke setup && python benchmarks/inference.py [RUN] [--points 10000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from picopinn import boards, flash, image, toolchain
from picopinn.export import Trained, export, for_board
from picopinn.link.emulator import EmulatedBoard
from picopinn.problems import relative_l2
from picopinn.runs import Run
from picopinn.settings import Settings

SCRIPT = Path(__file__).parent / "tflite" / "run.py"
REPEATS = 9  # calls a round
BOARD = boards.load("rp2040")
ON_BOARD = """
import ppn
from time import ticks_us, ticks_diff
started = ticks_us()
u = ppn.solver('{name}')
loaded = ticks_diff(ticks_us(), started)
points = [tuple([0.3] * u.inputs)] * 4
def took(count):
    times = []
    for _ in range(9):
        started = ticks_us()
        u.values(points[:count])
        times.append(ticks_diff(ticks_us(), started))
    return sorted(times)[4]
print(loaded, took(1), took(4))
"""


def trained(folder: Path, run: Path | None) -> Trained:
    """The solver of a run; without one, of the default command."""
    if run is None:
        settings = Settings("poisson2d")
        solver = settings.solver(1)
        solver.train()
        run = Run.create(folder / "run", settings, solver.state()).path
    return Trained.of(Run.open(run))


class Models:
    """A run's models in a runtime."""

    def __init__(self, folder: Path, runtime: toolchain.Runtime, files: list[Path]) -> None:
        self.folder, self.runtime, self.files = folder, runtime, files

    def call(self, x: np.ndarray, repeats: int) -> tuple[list[np.ndarray], list[float]]:
        """Of each model, values at x and seconds of the fastest call."""
        np.save(self.folder / "x.npy", x)
        out = self.folder / "out.npz"
        self.runtime.run(SCRIPT, out, self.folder / "x.npy", str(repeats), *self.files)
        with np.load(out) as file:
            values = [file[f"values{k}"][:, 0] for k in range(len(self.files))]
            return values, file["seconds"].min(axis=1).tolist()


def ours(solver: Trained, x: np.ndarray) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        solver.solver.predict(x)
        times.append(time.process_time() - started)
    return min(times)


def on_board(folder: Path, solver: Trained) -> tuple[int, int, int]:
    """Microseconds that loading takes, one point and four."""
    firmware = toolchain.board_firmware(BOARD.name).read_bytes()
    contents = image.build(BOARD, firmware, for_board([solver], BOARD))
    (folder / "board.uf2").write_bytes(contents)
    with closing(EmulatedBoard(folder / "board.uf2")) as board, flash.prompt_at(board.port) as prompt:
        loaded, one, four = map(int, prompt.exec(ON_BOARD.format(name=solver.name)).split())
    return loaded, one, four


def main() -> None:
    parser = argparse.ArgumentParser(description="inference, ours and TensorFlow Lite's")
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        solver = trained(folder, options.run)
        report(folder, solver, options.points, options.rounds)


def report(folder: Path, solver: Trained, points: int, rounds: int) -> None:
    problem = solver.problem
    test, batch = problem.test_points(), problem.interior(np.random.default_rng(0), points)
    expected, reference = solver.solver.predict(test), problem.solution(test)
    files = [export(solver, folder / f"{solver.name}{kind}.tflite", int8=kind == "-int8")[0] for kind in ("", "-int8")]
    (board,) = export(solver, folder / f"{solver.name}.ppn")
    sides = {runtime: Models(folder, toolchain.runtime(runtime), files) for runtime in toolchain.RUNTIMES}
    kinds = ("float32", "INT8")
    seconds: dict[str, list[float]] = {}
    single: dict[str, list[float]] = {}
    for _ in range(rounds):
        for size, times in ((batch, seconds), (batch[:1], single)):
            times.setdefault("picopinn", []).append(ours(solver, size))
            for runtime, models in sides.items():
                for kind, took in zip(kinds, models.call(size, REPEATS)[1], strict=True):
                    times.setdefault(f"{runtime} {kind}", []).append(took)
    print(f"{'':24}{'bytes':>8}{'relative L2':>13}{'to evaluate':>13}{'one point':>12}{f'{points:,} points':>16}")
    rows = {"picopinn": (board.stat().st_size, expected)}
    for runtime, models in sides.items():
        values, _ = models.call(test, 1)
        for kind, file, u in zip(kinds, files, values, strict=True):
            rows[f"{runtime} {kind}"] = (file.stat().st_size, u)
    for label, (size, u) in rows.items():
        one, many = statistics.median(single[label]), statistics.median(seconds[label])
        errors = f"{relative_l2(u, reference):13.2e}{relative_l2(u, expected):13.2e}"
        print(f"{label:24}{size:8,}{errors}{one * 1e6:9.0f} us{many * 1e3:13.2f} ms")
    for runtime in sides:
        pairs = zip(seconds[f"{runtime} INT8"], seconds["picopinn"], strict=True)
        ratio = statistics.median(theirs / mine for theirs, mine in pairs)
        print(f"picopinn is {ratio:.2f} times as fast as {runtime} INT8 at {points:,} points, round by round")
    loaded, one, four = on_board(folder, solver)
    print(f"{BOARD.title}, emulated: {loaded:,} us to load, {one:,} us for a point, {four:,} us for four together")


if __name__ == "__main__":
    main()
