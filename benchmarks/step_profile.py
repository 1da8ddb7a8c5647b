"""Where a training step's time goes, on the computer and on a board.

On the computer a timer notes, four thousand times a second, which instruction a thread is at, and the compiler's debug
information names the functions around it; a function that was not inlined counts for itself, whoever called it. On the
board the emulator counts the cycles of each instruction of the kernels (``m0_cycles.py``), and the board itself what it
takes beside them (``board_step.py``), one core. A shift within a sum of products counts as alignment where it is an
instruction of its own, and as product in the assembly of the Cortex-M0+.

    pip install '.[test]' && invoke setup && python benchmarks/step_profile.py [--body host] [--problem poisson2d]
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SAMPLER = Path(__file__).parent / "host" / "sampler.c"
EVERY = 250  # microseconds between two samples
WARM_UP = 50  # steps

Stack = tuple[str, ...]  # functions, innermost first

# What time counts as: by any function around an instruction, else by the innermost that a rule names. Names end where
# the rule does, or go on where it has a star.
AROUND = {
    "TT contraction": "ppn_chain_* ppn_load ppn_gradients ppn_product ppn_flatten ppn_reshape ppn_plan ppn_begin",
    "gradients": "ppn_outer* ppn_narrow_sum ppn_stage_gradient ppn_stage_bias ppn_bias_* ppn_merge",
}
WITHIN = {
    "alignment": "ppn_tile_exps ppn_tile_shifts ppn_shifts_by ppn_run_top ppn_run_exps ppn_m0_align ppn_m0_exps",
    "quantization": "ppn_encode* ppn_m0_encode* ppn_m0_nearest* ppn_m0_random* ppn_round_* ppn_scale_chunk ppn_store* "
    "ppn_put16* ppn_put8* ppn_put_cotangent* ppn_lengths_simd",
    "products": "ppn_tile_* ppn_chunk_sums ppn_chunk_product ppn_take_columns ppn_*ready* ppn_run_* ppn_row_times "
    "ppn_rows_times ppn_m0_sum ppn_m0_product ppn_m0_pairs* ppn_m0_special ppn_spread_simd ppn_add_bias ppn_chunk_bias",
    "activation": "ppn_put_* ppn_return_* ppn_forward* ppn_curve_* ppn_jet ppn_activate* ppn_backward "
    "ppn_input_cotangent",
    "host's encoding and Adam": "picopinn_*",
}
SUMS = ("ppn_tile_sum", "ppn_chunk_sums", "ppn_run_sum")
BODIES = ("host", "board")
OTHER = "other"
ORDER = ("products", "alignment", "activation", "quantization", "TT contraction", "gradients")


def kind(stack: Stack) -> str:
    """What an instruction in these functions counts as."""
    names = [re.sub("_(portable|avx2|avx512)$", "", name) for name in stack]
    for what, rules in AROUND.items():
        if any(_named(name, rules) for name in names):
            return what
    if "ppn_asr_by_simd" in names and any(name in SUMS for name in names):
        return "alignment"
    found = (what for name in names for what, rules in WITHIN.items() if _named(name, rules))
    return next(found, OTHER)


def _named(name: str, rules: str) -> bool:
    return any(fnmatchcase(name, rule) for rule in rules.split())


# ---- the computer


@contextmanager
def sampled() -> Iterator[list[int]]:
    """The list has, in the end, where this process was every so often."""
    places = np.zeros(1 << 20, np.uint64)
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/sampler.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SAMPLER], check=True)
        c = ctypes.CDLL(library)
        c.start.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_long)
        found: list[int] = []
        c.start(places.ctypes.data, places.size, EVERY)
        yield found
        found += places[: c.stop()].tolist()


def span(library: str) -> tuple[int, int]:
    """Addresses of a library of this process."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ends = [int(end, 16) for line in lines if line[-1] == library for end in line[0].split("-")]
    return min(ends), max(ends)


def on_host(problem: str, seconds: float) -> Counter[str]:
    """Milliseconds of the processor in a step, by kind."""
    from m0_cycles import functions

    from picopinn import _kernels
    from picopinn.settings import Settings

    solver = replace(Settings.of(problem), steps=10**9).solver(1)
    for _ in range(WARM_UP):
        solver.step()
    with sampled() as places:
        count, start = 0, time.process_time()
        while (spent := time.process_time() - start) < seconds:
            solver.step()
            count += 1
    low, high = span(_kernels.__file__)
    counted = Counter(at - low if low <= at < high else -1 for at in places)
    kinds: Counter[str] = Counter({"Python and NumPy": counted.pop(-1, 0)})
    found = functions(_kernels.__file__, counted, "addr2line")
    for at, samples in counted.items():
        kinds[kind(found[at])] += samples
    unit = spent * 1e3 / count / len(places)
    return Counter({what: samples * unit for what, samples in kinds.items()})


# ---- the board


def on_board() -> Counter[str]:
    """Megacycles of a step by kind, one core; the step is board_step's."""
    import board_step
    import m0_cycles

    step = board_step.STEP
    tt = "x".join(map(str, step.tt or ()))
    options = SimpleNamespace(
        hidden=step.hidden,
        tt=tt,
        rank=step.rank,
        points=step.batch,
        precision=step.precision,
        estimator=step.estimator,
        steps=3,
    )
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        machine = m0_cycles.of_step(Path(folder), *m0_cycles.record(options))
        for stack, cycles in m0_cycles.frames(machine, machine.run()).items():
            kinds[kind(stack)] += cycles / 1e6
    spent, _ = board_step.paced(step, 1)
    kinds["around kernels in C"] = spent.kernels - kinds.total()
    kinds["service, Python"] = spent.busy - spent.kernels
    kinds["waits for the link"] = spent.cycles - spent.busy
    return kinds


def table(title: str, unit: str, kinds: Counter[str]) -> None:
    total = kinds.total()
    print(f"{title}: {total:.2f} {unit}")
    for what in sorted(kinds, key=lambda what: (what not in ORDER, ORDER.index(what) if what in ORDER else 0)):
        print(f"  {what:26}{kinds[what]:8.3f} {unit}{kinds[what] / total:8.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description="where a training step's time goes")
    parser.add_argument("--body", nargs="+", choices=BODIES, default=BODIES)
    parser.add_argument("--problem", default="poisson2d", help="trained on the host")
    parser.add_argument("--seconds", type=float, default=4, help="of the processor, to sample the host")
    asked = parser.parse_args()
    if "host" in asked.body:
        table(f"host, {asked.problem}, one thread", "ms", on_host(asked.problem, asked.seconds))
    if "board" in asked.body:
        table("RP2040, poisson2d 2-64-64-64-1, 16 + 16 points, one core", "Mcycles", on_board())


if __name__ == "__main__":
    main()
