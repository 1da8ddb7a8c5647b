"""What a training step takes in PyTorch (eager, float32): operations, arithmetic, bytes, and seconds on this machine.

The accelerator model compares itself with these steps (``pinta_model/data/eager_steps.json``). A step is a forward, the
PDE's derivatives by automatic differentiation (``ad``), Stein pairs (``se``) or jets, ``backward`` and Adam; dense or
with tensor trains (``tt``); sizes are those of ``picopinn.pinta.setting_of``. A CPU's seconds are processor time of one
thread, so that what else the machine does counts little; rounds go through all steps in turn; medians, with the fastest
and slowest beside them. A GPU, where there is one, is measured by the clock.

    pip install . torch && python benchmarks/pinta_baselines.py [--rounds 5] [--write]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from picopinn.pinta import Setting, setting_of

RESULT = Path(__file__).parents[1] / "pinta_model" / "data" / "eager_steps.json"
PROBLEMS = ("poisson2d", "hjb20d", "heat100d")
VARIANTS = {"dense ad": ("ad", False), "dense se": ("se", False), "tt se": ("se", True), "tt jet": ("jet", True)}
VIEWS = {"view", "t", "transpose", "permute", "expand", "detach", "slice", "select", "unsqueeze", "squeeze", "alias"}


class TensorTrain(torch.nn.Module):
    """x W^T with W = L R, both contracted from cores as the first thing."""

    def __init__(self, modes: tuple[int, ...], rank: int) -> None:
        super().__init__()
        ranks = (*[rank] * len(modes), 1)
        shapes = [(ranks[k], mode, ranks[k + 1]) for k, mode in enumerate(modes)]
        self.halves = torch.nn.ModuleList(
            torch.nn.ParameterList(torch.randn(shape) * 0.3 for shape in shapes) for _ in range(2)
        )
        self.bias = torch.nn.Parameter(torch.zeros(int(torch.tensor(modes).prod())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right, left = (_contract(list(cores)) for cores in self.halves)
        return x @ right.T @ left + self.bias


def _contract(cores: list[torch.Tensor]) -> torch.Tensor:
    whole = cores[-1][:, :, 0]
    for core in reversed(cores[:-1]):
        whole = (core.reshape(-1, core.shape[2]) @ whole).reshape(core.shape[0], -1)
    return whole


class Sine(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def network(setting: Setting, tt: bool) -> torch.nn.Module:
    act = torch.nn.Tanh if setting.activation == "tanh" else Sine
    layers: list[torch.nn.Module] = [torch.nn.Linear(setting.dimensions, setting.hidden), act()]
    for _ in range(setting.layers - 1):
        hidden = TensorTrain(setting.tt, setting.rank) if tt else torch.nn.Linear(setting.hidden, setting.hidden)
        layers += [hidden, act()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(setting.hidden, 1))


def solution(name: str, net: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """u (n,) of points; hjb20d meets its terminal value by construction."""
    if name == "hjb20d":
        return lambda x: x[:, :-1].abs().sum(dim=1) + (1 - x[:, -1]) * net(x)[:, 0]
    return lambda x: net(x)[:, 0]


def residual(name: str, x: torch.Tensor, slope: torch.Tensor, laplacian: torch.Tensor) -> torch.Tensor:
    if name == "poisson2d":
        return laplacian + torch.sin(x.sum(dim=1))
    if name == "hjb20d":
        return slope[:, -1] + laplacian - 0.05 * slope[:, :-1].square().sum(dim=1) + 2
    return slope[:, -1] - laplacian


def by_ad(u: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, space: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient and Laplacian by stacked automatic differentiation: one more pass a dimension."""
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(u(x).sum(), x, create_graph=True)
    second = [torch.autograd.grad(slope[:, d].sum(), x, create_graph=True)[0][:, d] for d in range(space)]
    return slope, torch.stack(second).sum(dim=0)


def by_stein(
    u: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, space: int, pairs: int, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient and Laplacian from antithetic Gaussian pairs, all points with the same steps."""
    d = sigma * torch.randn(pairs, x.shape[1], device=x.device)
    here = u(x)
    plus = u((x[:, None] + d).reshape(-1, x.shape[1])).reshape(len(x), -1)
    minus = u((x[:, None] - d).reshape(-1, x.shape[1])).reshape(len(x), -1)
    slope = (plus - minus) @ d / (2 * sigma**2 * pairs)
    weight = (d[:, :space].square().sum(dim=1) - sigma**2 * space) / (2 * sigma**4 * pairs)
    return slope, (plus + minus - 2 * here[:, None]) @ weight


def by_jets(name: str, net: torch.nn.Module, x: torch.Tensor, space: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient and Laplacian by second-order Taylor terms along every axis, carried through the layers together."""
    value, first = x, torch.eye(x.shape[1], device=x.device)[:, None]
    second = torch.zeros_like(first)
    for layer in net:
        if isinstance(layer, (torch.nn.Linear, TensorTrain)):
            value, first, second = layer(value), layer(first) - layer.bias, layer(second) - layer.bias
            continue
        value = layer(value)
        if isinstance(layer, Sine):
            p1, p2 = torch.sqrt(1 - value.square()), -value
        else:
            p1 = 1 - value.square()
            p2 = -2 * value * p1
        second = p1 * second + p2 * first.square() / 2
        first = p1 * first
    u, slope, curve = value[:, 0], first[..., 0].T, 2 * second[:space, :, 0].sum(dim=0)
    if name != "hjb20d":
        return slope, curve
    rest = 1 - x[:, -1]  # u = sum |x_i| + (1 - t) net
    time = (rest * slope[:, -1] - u)[:, None]
    return torch.cat([1 + rest[:, None] * slope[:, :-1], time], dim=1), rest * curve


def step_of(name: str, variant: str, device: str) -> Callable[[], None]:
    setting, (kind, tt) = setting_of(name), VARIANTS[variant]
    torch.manual_seed(0)
    net = network(setting, tt).to(device)
    u = solution(name, net)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    space = setting.dimensions - (name != "poisson2d")  # the last column is time

    def step() -> None:
        x = torch.rand(setting.interior, setting.dimensions, device=device)
        if kind == "ad":
            derived = by_ad(u, x, space)
        elif kind == "se":
            derived = by_stein(u, x, space, setting.pairs, setting.sigma)
        else:
            derived = by_jets(name, net, x, space)
        loss = residual(name, x, *derived).square().mean()
        if setting.boundary:
            edge = torch.rand(setting.boundary, setting.dimensions, device=device)
            loss = loss + 300 * (u(edge) - edge.sum(dim=1)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


class Counter(TorchDispatchMode):
    """Counts what would be launched on a GPU, the arithmetic of its products, and the bytes it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.nbytes = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        if name not in VIEWS:
            self.launches += 1
            if func.overloadpacket in flop_registry:
                self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.nbytes += sum(t.numel() * t.element_size() for t in _tensors((args, kwargs or {}, out)))
        return out


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def seconds(step: Callable[[], None], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measured(names: list[tuple[str, str]], device: str, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of every step, sorted; the first round is for warming up."""
    found: dict[tuple[str, str], list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:  # made anew: only one step's memory is held at a time
            step = step_of(*name, device)
            if number == 0 or device == "cuda":
                seconds(step, device)
            if number:
                found[name].append(seconds(step, device))
        print(f"{device}: round {number} of {rounds}", flush=True)
    return {name: sorted(times) for name, times in found.items()}


def counted(name: str, variant: str) -> dict[str, Any]:
    """Operations, arithmetic and bytes of a step."""
    step, counter = step_of(name, variant, "cpu"), Counter()
    step()
    with counter:
        step()
    return {"launches": counter.launches, "flops": counter.flops, "nbytes": counter.nbytes}


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description="eager training steps in PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = [(name, variant) for name in PROBLEMS for variant in VARIANTS]
    steps = {name: counted(*name) for name in names}
    for device in ("cpu", "cuda") if gpu else ("cpu",):
        for name, times in measured(names, device, options.rounds).items():
            what = "gpu" if device == "cuda" else "cpu"
            steps[name][f"{what}_seconds"] = rounded(statistics.median(times))
            steps[name][f"{what}_range_seconds"] = [rounded(times[0]), rounded(times[-1])]
            print(*name, steps[name], flush=True)
    machine = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    processors = {"cpu": processor(), "threads": 1, "gpu": gpu}
    named = {" ".join(name): step for name, step in steps.items()}
    data = {**machine, **processors, "rounds": options.rounds, "steps": named}
    if options.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
