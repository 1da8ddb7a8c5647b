"""Machines that the accelerator is compared with: a GPU by roofline and launches, a measured CPU, a board's power."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .errors import PintaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class EagerStep:
    """A training step in an eager framework, as ``benchmarks/pinta_baselines.py`` counted and measured it.

    Attributes:
        launches: operations that a GPU would be sent one by one.
        flops: of its matrix products.
        nbytes: that operations read and write.
        cpu_seconds, cpu_range_seconds: of one core, median of what was measured; fastest and slowest.
        gpu_seconds, gpu_range_seconds: the same of a GPU, where there was one.
    """

    launches: int
    flops: int
    nbytes: int
    cpu_seconds: float
    cpu_range_seconds: Sequence[float] = ()
    gpu_seconds: float | None = None
    gpu_range_seconds: Sequence[float] = ()


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet."""

    name: str
    flops_per_second: float
    bytes_per_second: float
    launch_seconds: float
    watts: float

    def seconds(self, step: EagerStep) -> tuple[float, str]:
        """Time of a step and what decides it; measured if it was, else the largest of three lower bounds."""
        if step.gpu_seconds is not None:
            return step.gpu_seconds, "measured"
        return max(
            (step.launches * self.launch_seconds, "launches"),
            (step.flops / self.flops_per_second, "arithmetic"),
            (step.nbytes / self.bytes_per_second, "memory"),
        )

    def joules(self, step: EagerStep) -> float:
        """Energy of a step at full board power: an upper bound, since a GPU that waits for launches draws less."""
        return self.seconds(step)[0] * self.watts


@dataclass(frozen=True)
class Claim:
    """Ranges that the literature states for its accelerator."""

    speedup: tuple[float, float]
    energy_ratio: tuple[float, float]
    source: str


def gpu() -> Gpu:
    """The GPU of the comparison."""
    data = _machines()["gpu"]
    return Gpu(**{key: data[key] for key in Gpu.__dataclass_fields__})


def rp2040_watts() -> float:
    """Power of a microcontroller with both cores busy at 125 MHz, by its data sheet."""
    return float(_machines()["rp2040"]["watts"])


def claimed() -> Claim:
    """What the literature states."""
    data = _machines()["claimed"]
    return Claim(tuple(data["speedup"]), tuple(data["energy_ratio"]), data["source"])


def relative_products_per_joule() -> float:
    """8-bit products a joule of the closest published accelerator, all of it counted."""
    return float(_machines()["relative"]["products_per_joule"])


def eager(problem: str, variant: str) -> EagerStep:
    """The counted step of a problem; ``variant`` is ``dense ad``, ``dense se``, ``tt se`` or ``tt jet``.

    Raises:
        PintaError: that step was not counted.
    """
    steps = eager_data()["steps"]
    if f"{problem} {variant}" not in steps:
        known = ", ".join(sorted({name.split()[0] for name in steps}))
        raise PintaError(f"data/eager_steps.json has no step {variant!r} of {problem!r}: it has {known}")
    return EagerStep(**steps[f"{problem} {variant}"])


def eager_data() -> dict[str, Any]:
    """All counted steps, with date and machine."""
    data: dict[str, Any] = json.loads(_data("eager_steps.json"))
    return data


def _machines() -> dict[str, Any]:
    return tomllib.loads(_data("machines.toml"))


def _data(name: str) -> str:
    return (resources.files("pinta_model") / "data" / name).read_text(encoding="utf-8")
