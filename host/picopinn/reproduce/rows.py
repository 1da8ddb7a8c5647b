"""What the table of results trains: a row a choice, the same for every problem where it means something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..network import DEFAULT_PRECISION
from ..problems import get, names
from ..settings import FLOAT, Settings, options_of

SEEDS = 5
MASKING_SIGMAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_FINITE = {"estimator": "orthogonal", "sigma": 0.01}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        problem: its name.
        name: of the row, unique within its problem.
        given: settings in which it differs from ``picopinn train PROBLEM``.
        seeds: how many runs.
    """

    problem: str
    name: str
    given: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = SEEDS

    @property
    def command(self) -> str:
        """What trains its first seed by hand."""
        return " ".join(["picopinn train", self.problem, *options_of(self.given)])

    def settings(self, seed: int) -> Settings:
        """Of one run."""
        return Settings.of(self.problem, **self.given, seed=seed)


DENSE_FLOAT, DEFAULT = "dense float32", "default"
SEQUENTIAL, DIFFERENCE, NAIVE = "TT core by core", "difference", "naive"
GAUSSIAN = "Gaussian steps, difference"
"""Names that comparisons look for."""

_MAIN: dict[str, dict[str, Any]] = {
    DENSE_FLOAT: {"precision": FLOAT, "tt": None},
    DEFAULT: {},
    "TT float32": {"precision": FLOAT},
    SEQUENTIAL: {"contraction": "sequential"},
}
"""Rows of every problem."""
_MORE: dict[str, dict[str, Any]] = {
    "dense, widths of the default": {"tt": None},
    "w8a8b12g12": {"precision": "w8a8b12g12"},
    "w12a12g12": {"precision": "w12a12g12"},
    "w6a8g12": {"precision": "w6a8g12"},
    "w4a8g12": {"precision": "w4a8g12"},
}
_STEPS: dict[str, dict[str, Any]] = {
    "odd-even": _FINITE | {"quantization": "odd-even"},
    DIFFERENCE: _FINITE | {"quantization": "difference"},
    NAIVE: _FINITE | {"quantization": "naive"},
}
_NARROWER: dict[str, dict[str, Any]] = {"w8a12g12": {"precision": "w8a12g12"}, "rank 8": {"rank": 8}}
_NORMAL = {"cores start as normals": {"init": "normal"}}
_SLOWER = {"dense float32, rate 3e-3": _MAIN[DENSE_FLOAT] | {"learning_rate": 3e-3}}
_ALONE: dict[str, dict[str, dict[str, Any]]] = {
    "poisson2d": {
        "dense float32, rate 1e-3": _MAIN[DENSE_FLOAT] | {"learning_rate": 1e-3},
        "w8a8g8": {"precision": "w8a8g8"},
        "w8a6g12": {"precision": "w8a6g12"},
        GAUSSIAN: {"estimator": "gaussian", "sigma": 0.1, "quantization": "difference"},
    },
    "heat100d": _SLOWER,
    "heat100d-hard": _SLOWER,
    "poisson100d": _SLOWER,
    "allencahn100d": _SLOWER,
    "sinegordon100d": _SLOWER,
    "helmholtz2d": _NARROWER | _NORMAL,
    "allencahn1d": _NARROWER,
    "poisson2d-waves": {
        **_NARROWER,
        **_NORMAL,
        "rank 24": {"rank": 24},
        "matrices move to the end": {"settle": 1},
        "w8a12g12, matrices move to the end": {"precision": "w8a12g12", "settle": 1},
    },
}
"""Rows of one problem."""


def rows(problem: str) -> list[Row]:
    """The rows of a problem, the yardstick first; in many dimensions, where a run takes minutes, only the main ones."""
    others = (_MORE | _STEPS if get(problem).dimensions <= 2 else {}) | _ALONE.get(problem, {})
    own = get(problem).defaults.get("precision", DEFAULT_PRECISION)
    chosen = _MAIN | {name: choice for name, choice in others.items() if choice.get("precision") != own}
    return [Row(problem, name, choice) for name, choice in chosen.items()]


def masking() -> list[Row]:
    """The masking curve: poisson2d by finite steps of many sizes, one seed each."""
    return [
        Row("poisson2d", f"sigma {sigma:g}, {quantization}", choice | {"sigma": sigma}, seeds=1)
        for quantization, choice in _STEPS.items()
        for sigma in MASKING_SIGMAS
    ]


def quick() -> list[Row]:
    """A few steps of every row of poisson2d and of every problem, to see that it runs and that the orderings hold."""
    plain = [replace(row, given={**row.given, "steps": 200}, seeds=1) for row in rows("poisson2d")]
    others = [row for name in names() if name != "poisson2d" for row in rows(name) if row.name == DEFAULT]
    small = [replace(row, given={**_narrow(row), "steps": 20, "batch": 20}, seeds=1) for row in others]
    return [row for row in plain if row.name != GAUSSIAN] + small


def _narrow(row: Row) -> dict[str, Any]:
    """A hidden width of 32, whatever the problem has."""
    narrow = {**row.given, "hidden": 32}
    return narrow if "tt" in row.given else {**narrow, "tt": (4, 8)}


def wanted(problems: list[str], quickly: bool) -> list[Row]:
    """The rows of these problems, of all if none is named; UsageError for an unknown name."""
    for name in problems:
        get(name)
    chosen = quick() if quickly else [row for name in names() for row in rows(name)] + masking()
    return [row for row in chosen if not problems or row.problem in problems]
