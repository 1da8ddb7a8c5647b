"""Matrix products: our INT8 in SMX blocks against NumPy's float32 (OpenBLAS) and TensorFlow Lite's INT8 (XNNPACK).

The shapes are those of the stages of two problems, a training step's points inside all at once, and squares. All sides
take turns; a figure is the median of rounds, in each of which the fastest of some calls counts, and ratios are formed
round by round. Ours is ``kernels.matmul`` with packed weights; its left side is blocks already, or it is encoded each
time: from int32 sums, as between stages of a network, or from float64, as what enters one. TensorFlow Lite rounds its
sums to INT8 by one scale; ours are int32 with an exponent a block, and NumPy's float32. All write to memory that is
there. Encoding takes one thread.

    pip install '.[test]' && invoke setup && python benchmarks/products.py [--threads 1 2] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "tflite" / "products.py"
RUNTIME = "ai-edge-litert"
PROBLEMS = ("poisson2d", "hjb20d")
SQUARES = (64, 128, 256, 512, 1024)
ROUND = 0.01  # seconds, about, that a side's calls take in a round
OURS, SUMS, REALS, FLOAT, LITE = "ours", "from sums", "from float64", "NumPy float32", "TFLite INT8"
SIDES = (OURS, SUMS, REALS, FLOAT, LITE)

Timed = Callable[[int], float]  # seconds of the fastest of so many calls


@dataclass(frozen=True)
class Shape:
    """(rows, inner) times (inner, cols)."""

    name: str
    rows: int
    inner: int
    cols: int

    @property
    def calls(self) -> int:
        """A round, by a guess of 30 multiplications a nanosecond."""
        return max(3, min(300, int(ROUND * 30e9 / (self.rows * self.inner * self.cols))))

    def __str__(self) -> str:
        return f"{self.name:10}{self.rows:6}{self.inner:6}{self.cols:6}"


def shapes() -> list[Shape]:
    """Each stage of the problems' networks once, then squares."""
    from picopinn.network import stream_count
    from picopinn.settings import Settings

    found: dict[tuple[int, int, int], Shape] = {}
    for problem in PROBLEMS:
        settings = Settings.of(problem)
        rows = settings.batch * stream_count(settings.mode(), settings.streamed())
        for stage in settings.network().program(settings.widths(), settings.mode()).stages:
            size = (rows, stage.inputs, stage.outputs)
            found.setdefault(size, Shape(problem, *size))
    return [*found.values(), *(Shape("square", n, n, n) for n in SQUARES)]


def fastest(call: Callable[[], object]) -> Timed:
    def timed(calls: int) -> float:
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    return timed


def ours_and_numpy(shape: Shape, threads: int) -> dict[str, Timed]:
    import numpy as np

    from picopinn import kernels, smx

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(shape.rows, shape.inner)), rng.normal(size=(shape.inner, shape.cols))
    left, right, out = a.astype(np.float32), b.astype(np.float32), np.empty((shape.rows, shape.cols), np.float32)
    x, weights = smx.encode(a, 8), kernels.Packed(smx.encode(b.T, 8), transpose_b=True, threads=threads)
    ours = kernels.matmul(x, weights)
    sums, powers = (x.blocks * np.int32(1000)).reshape(-1, 16), x.exponents.astype(np.int16)
    lanes = smx.to_blocks(1 + np.arange(a.size).reshape(a.shape)) - 1
    pattern = kernels.Pattern(lanes.reshape(*x.exponents.shape, -1), 8)

    def product() -> None:
        kernels.matmul(x, weights, out=ours)

    def from_sums() -> None:
        kernels.encode_integers(sums, powers, 8, x.blocks, x.exponents)
        product()

    def from_reals() -> None:
        pattern.gather(a)
        product()

    return {
        OURS: fastest(product),
        SUMS: fastest(from_sums),
        REALS: fastest(from_reals),
        FLOAT: fastest(lambda: np.matmul(left, right, out=out)),
    }


class Lite:
    """The runtime in a process of its own, which holds a model for each shape and waits for questions."""

    def __init__(self, folder: Path, every: list[Shape], threads: int) -> None:
        from picopinn import toolchain

        models = [str(write_model(folder / f"{number}.tflite", shape)) for number, shape in enumerate(every)]
        runtime = toolchain.runtime(RUNTIME)
        self._every = every
        self._process = subprocess.Popen(
            [str(runtime.python), str(SCRIPT), str(threads), *models],
            env={**os.environ, "PYTHONPATH": str(runtime.packages), "PYTHONNOUSERSITE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def timed(self, shape: Shape) -> Timed:
        assert self._process.stdin and self._process.stdout
        question, answer = self._process.stdin, self._process.stdout

        def ask(calls: int) -> float:
            question.write(f"{self._every.index(shape)} {shape.rows} {calls}\n")
            return float(answer.readline())

        return ask

    def close(self) -> None:
        self._process.communicate()


def write_model(path: Path, shape: Shape) -> Path:
    """One FULLY_CONNECTED of INT8, by one scale a tensor."""
    import numpy as np

    from picopinn.export.flatbuffer import Affine, Model

    weights = np.random.default_rng(0).integers(-127, 128, (shape.cols, shape.inner)).astype(np.int8)
    model = Model(f"{shape}")
    x = model.variable("x", shape.inner, np.int8, Affine(2.0**-7))
    y = model.variable("y", shape.cols, np.int8, Affine(2.0**-7 * shape.inner))
    matrix = model.constant("weight", weights, Affine(2.0**-7))
    model.operator("FULLY_CONNECTED", [x, matrix, -1], y, "FullyConnectedOptions", version=4)
    path.write_bytes(model.to_bytes(x, y))
    return path


@contextmanager
def lite(every: list[Shape], threads: int) -> Iterator[Lite]:
    with tempfile.TemporaryDirectory() as folder:
        runtime = Lite(Path(folder), every, threads)
        yield runtime
        runtime.close()


GAINS = ((FLOAT, OURS), (FLOAT, SUMS), (FLOAT, REALS), (LITE, OURS))


def line(shape: Shape, times: dict[str, list[float]]) -> str:
    """Medians in microseconds, and how many times as fast ours is."""
    medians = "".join(f"{statistics.median(times[side]) * 1e6:15,.1f}" for side in SIDES)
    ratios = [[y / x for x, y in zip(times[mine], times[theirs], strict=True)] for theirs, mine in GAINS]
    return f"{shape}{medians}" + "".join(f"{statistics.median(r):9.2f}x" for r in ratios)


def report(threads: int, rounds: int) -> None:
    every = shapes()
    print(f"{threads} thread{'s' * (threads > 1)}, microseconds; then how many times as fast as NumPy ours is, with")
    print("its left side as blocks, from sums, from float64; and as TFLite with its left side as blocks")
    print(f"{'':10}{'rows':>6}{'inner':>6}{'cols':>6}" + "".join(f"{side:>15}" for side in SIDES))
    with lite(every, threads) as runtime:
        for shape in every:
            sides = ours_and_numpy(shape, threads) | {LITE: runtime.timed(shape)}
            times: dict[str, list[float]] = {side: [] for side in sides}
            for side in sides.values():
                side(2)  # warm
            for _ in range(rounds):
                for name, side in sides.items():
                    times[name].append(side(shape.calls))
            print(line(shape, times), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="INT8 products in SMX against float32 and TensorFlow Lite")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if len(options.threads) == 1:
        os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads[0])  # before NumPy is imported
        report(options.threads[0], options.rounds)
        return
    for threads in options.threads:
        command = [sys.executable, __file__, "--threads", str(threads), "--rounds", str(options.rounds)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
