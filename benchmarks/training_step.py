"""One training step of poisson2d: the integer solver against PyTorch, interleaved, medians.

PyTorch (never a dependency of picopinn) runs the dense network in float32 the common way: u by a forward, its gradient
by ``autograd.grad``, the Laplacian by a second one a dimension (stacked automatic differentiation), the loss's gradient
by ``backward``, then Adam. Points come from the same problem; both sides draw them anew each step.

    pip install . torch && python benchmarks/training_step.py [--threads 1] [--hidden 256] [--batch 100] [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="integer training step against PyTorch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tt", default="16x16")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50, help="steps a round and side")
    parser.add_argument("--precision", default=None, help="default: the solver's")
    return parser.parse_args()


def ours(options: argparse.Namespace) -> Callable[[], object]:
    from picopinn import Network, Solver
    from picopinn.problems import get

    modes = tuple(int(mode) for mode in options.tt.split("x"))
    precision = {} if options.precision is None else {"precision": options.precision}
    solver = Solver(
        get("poisson2d")(),
        Network(2, hidden=options.hidden, tt=modes),
        steps=10**9,
        batch=options.batch,
        threads=options.threads,
        **precision,
    )
    return solver.step


def stacked_autograd(options: argparse.Namespace) -> Callable[[], object]:
    import numpy as np

    from picopinn.problems import get

    try:
        import torch
    except ImportError:
        raise SystemExit("this compares with PyTorch, which is no dependency: pip install torch") from None

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    problem, width = get("poisson2d")(), options.hidden
    sizes = [2, width, width, width, 1]
    layers: list[torch.nn.Module] = []
    for cols, rows in pairwise(sizes):
        layers += [torch.nn.Linear(cols, rows), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    rng = np.random.default_rng(0)

    def step() -> None:
        x = torch.tensor(problem.interior(rng, options.batch), dtype=torch.float32, requires_grad=True)
        edge = torch.tensor(problem.edge(rng, options.batch), dtype=torch.float32)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        laplacian = sum(
            torch.autograd.grad(slope[:, d].sum(), x, create_graph=True)[0][:, d] for d in range(x.shape[1])
        )
        residual = laplacian + torch.sin(x.sum(dim=1))
        gap = model(edge)[:, 0] - torch.sin(edge.sum(dim=1)) / 2
        loss = residual.square().mean() + problem.boundary_weight * gap.square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def milliseconds(step: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps * 1e3


def main() -> None:
    options = arguments()
    os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
    sides = {"picopinn": ours(options), "torch stacked autograd": stacked_autograd(options)}
    for step in sides.values():
        milliseconds(step, 10)  # warm-up
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, step in sides.items():
            times[name].append(milliseconds(step, options.steps))
    for name, measured in times.items():
        print(f"{name:24} {statistics.median(measured):8.3f} ms/step (median of {options.rounds} rounds)")
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    print(
        f"{'ratio, pair by pair':24} {statistics.median(ratios):8.2f} x (min {min(ratios):.2f}, max {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
