"""One training step of poisson2d: the integer solver against PyTorch (no dependency), interleaved, medians.

PyTorch runs the dense network in float32, by stacked automatic differentiation as most do and by the forward Laplacian,
the fastest exact derivative there is; and our network with fake quantization (``torch_baselines``): in float32 as a
person writes it, and in float64 to the bits of the integers (with the solver's own residual and Adam). ``--compile``
adds the forward Laplacian through ``torch.compile``, which takes a C++ compiler and half a minute. All draw new points
of the same problem each step, form the loss and step Adam. With more threads than one, what one takes is measured too.
On a machine with other work, OMP_WAIT_POLICY=PASSIVE keeps two threads of PyTorch from spinning.

    pip install . torch && python benchmarks/training_step.py [--threads 1] [--hidden 256] [--batch 100] [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

OURS = "picopinn"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="integer training step against PyTorch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tt", default="16x16")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps a round and side")
    parser.add_argument("--precision", default="w8a8g12")
    parser.add_argument("--compile", action="store_true", help="also the compiled forward Laplacian")
    return parser.parse_args()


def all_sides(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What takes turns; PyTorch is imported here, after the environment says how many threads there are."""
    try:
        import torch
    except ImportError:
        raise SystemExit("this compares with PyTorch, which is no dependency: pip install torch") from None
    from torch_baselines.engine import TorchEngine
    from torch_baselines.exact import Exact
    from torch_baselines.poisson2d import training
    from torch_baselines.quantized import Quantized
    from torch_baselines.stacked import Stacked
    from torch_baselines.taylor import Taylor

    from picopinn import Network, Precision, Solver
    from picopinn.engine import Engine
    from picopinn.problems import get
    from picopinn.settings import parse_tt

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    small = Network(2, hidden=options.hidden, tt=parse_tt(options.tt))
    dense = Network(2, hidden=options.hidden, tt=None)
    precision = Precision.parse(options.precision)

    def solver(engine: Engine | None = None, threads: int = options.threads) -> Solver:
        run = {"steps": 10**9, "batch": options.batch, "threads": threads}
        return Solver(get("poisson2d")(), small, precision=options.precision, engine=engine, **run)

    sides = {
        OURS: solver().step,
        "torch stacked autograd": training(Stacked(dense), options.batch),
        "torch forward Laplacian": training(Taylor(dense), options.batch),
        "torch fake-quantized": training(Quantized(small, precision), options.batch),
        "torch fake-quantized, our bits": solver(TorchEngine(Exact(small, precision))).step,
    }
    if options.threads > 1:
        sides[f"{OURS}, 1 thread"] = solver(threads=1).step
    if options.compile:
        sides["torch forward Laplacian, compiled"] = training(Taylor(dense), options.batch, compiled=True)
    return sides


def main() -> None:
    options = arguments()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from torch_baselines.timing import against, take_turns

    times = take_turns(all_sides(options), options.rounds, options.steps)
    print(f"a step, {options.threads} threads, median of {options.rounds} rounds; against {OURS}, round by round")
    for name, line in against(times, OURS).items():
        print(f"{name:34}{line}")


if __name__ == "__main__":
    main()
