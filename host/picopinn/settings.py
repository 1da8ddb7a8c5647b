"""Settings: everything that decides the bits of a run, and its TOML text."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .device.base import Device
from .errors import UsageError
from .estimators import STEPLESS, Estimator, Kind, Quantization, Squared
from .integer import IntegerEngine
from .network import DEFAULT_PRECISION, Activation, Contraction, Init, Mode, Network, Precision
from .optim import DEFAULT_LEARNING_RATE
from .problems import Problem, get
from .smx import blocks_of
from .solver import Solver

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLOAT = "float32"


@dataclass(frozen=True)
class Settings:
    """The choices of a run; the number of threads is none of them, since it changes no bit.

    ``sigma`` and ``quantization`` are None for estimators that take no steps; ``tt`` is None for dense layers;
    ``options`` are the problem's own; ``omega`` is None for a first layer as Glorot has it; ``settle``
    is None for matrices that move to the end, as those of ``float32`` do by default.
    """

    problem: str
    options: dict[str, float] = field(default_factory=dict)
    estimator: Kind = Estimator.kind
    sigma: float | None = None
    directions: int | None = None
    quantization: Quantization | None = None
    squared: Squared = Estimator.squared
    precision: str = DEFAULT_PRECISION
    hidden: int = Network.hidden
    layers: int = Network.layers
    tt: tuple[int, ...] | None = Network.tt
    rank: int = Network.rank
    activation: Activation = Network.activation
    contraction: Contraction = Network.contraction
    omega: float | None = None
    init: Init = Network.init
    steps: int = 2000
    seed: int = 0
    batch: int = 100
    learning_rate: float = DEFAULT_LEARNING_RATE
    settle: float | None = None

    @classmethod
    def of(cls, problem: str, **given: Any) -> Settings:
        """The settings of ``picopinn train PROBLEM`` with what is given; the problem's own defaults fill the rest.

        Raises:
            UsageError: no such problem or option of it, or directions that cannot work.
        """
        kind = get(problem)
        values = {**kind.defaults, **given}
        values["options"] = kind(**values.get("options", {})).chosen_options()
        if values.get("estimator", Estimator.kind) in STEPLESS:
            values |= {"sigma": None, "quantization": None}
        else:
            values = {"sigma": Estimator.sigma, "quantization": Estimator.quantization} | values
        if values.get("tt", cls.tt) is None:
            values["init"] = given.get("init", cls.init)  # the problem's is for cores
        if values.get("precision") == FLOAT:
            values["settle"] = given.get("settle")  # the problem's is for roundings
        if values.get("estimator") in ("gaussian", "smolyak"):
            values["directions"] = given.get("directions")  # the problem's are for orthogonal ones
        settings = cls(problem, **values)
        return replace(settings, directions=settings.stein().chosen(kind.dimensions, kind.time))

    def to_toml(self) -> str:
        """The settings as TOML, one key a line; those that are None are left out."""
        lines = (f"{key} = {_toml(value)}\n" for key, value in asdict(self).items() if value is not None)
        return "".join(lines)

    @classmethod
    def from_toml(cls, text: str) -> Settings:
        """Read what :meth:`to_toml` wrote.

        Raises:
            UsageError: not TOML, or a key is unknown, missing or of the wrong type.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"the settings are not TOML: {error}") from error
        hints = get_type_hints(cls)
        if unknown := table.keys() - hints.keys():
            raise UsageError(f"unknown setting {', '.join(sorted(unknown))}: the settings are {', '.join(hints)}")
        needed = {key for key, hint in hints.items() if NoneType not in get_args(hint)}
        if missing := needed - table.keys():
            raise UsageError(f"missing setting {', '.join(sorted(missing))}")
        return cls(**{key: _typed(key, table.get(key), hint) for key, hint in hints.items()})

    def pde(self) -> Problem:
        """The problem by its name, with its options."""
        return get(self.problem)(**self.options)

    def network(self) -> Network:
        """The network for the problem's dimensions."""
        if self.tt is not None and min(self.hidden, *self.tt) > 0 and math.prod(self.tt) != self.hidden:
            raise UsageError(_mismatch(self.tt, self.hidden))
        return Network(
            self.pde().dimensions,
            hidden=self.hidden,
            layers=self.layers,
            tt=self.tt,
            rank=self.rank,
            activation=self.activation,
            contraction=self.contraction,
            omega=self.omega,
            init=self.init,
        )

    def stein(self) -> Estimator:
        """The estimator of derivatives."""
        steps = {"sigma": self.sigma, "quantization": self.quantization}
        given: dict[str, Any] = {key: value for key, value in steps.items() if value is not None}
        return Estimator(self.estimator, directions=self.directions, squared=self.squared, **given)

    def mode(self) -> Mode:
        """Of the streams that a device carries."""
        return self.stein().mode(self.pde().time)

    def widths(self) -> Precision:
        """Of the integers; for ``float32`` those that integers would have by default."""
        return Precision() if self.precision == FLOAT else Precision.parse(self.precision)

    def streamed(self) -> int:
        """Directions that a device carries, that of time included."""
        problem = self.pde()
        return self.stein().count(problem.dimensions, problem.time)

    def solver(self, threads: int, device: Device | None = None) -> Solver:
        """A solver at step 0, on this computer's kernels or another device.

        Raises:
            UsageError: choices that cannot work; the message says which.
        """
        return Solver(
            self.pde(),
            self.network(),
            self.stein(),
            self.precision,
            steps=self.steps,
            seed=self.seed,
            batch=self.batch,
            learning_rate=self.learning_rate,
            settle=self.settle,
            threads=threads,
            engine=None if device is None else self._engine(threads, device),
        )

    def _engine(self, threads: int, device: Device) -> IntegerEngine:
        if self.precision == FLOAT:
            raise UsageError(f"{FLOAT} runs on this computer only: leave out --device, or choose widths")
        network, precision = self.network(), Precision.parse(self.precision)
        engine = IntegerEngine(network, precision, self.mode(), seed=self.seed, threads=threads, device=device)
        engine.prepare(self.streamed())  # before a run begins: is there room?
        return engine

    def microbatches(self) -> tuple[int, int]:
        """Of a step, four points each: inside, and at all soft conditions."""
        return blocks_of(self.batch), blocks_of(self.batch * len(self.pde().conditions()))


def options_of(given: Mapping[str, Any]) -> list[str]:
    """The options of the command line that give these settings to :meth:`Settings.of`."""
    words: list[str] = []
    for name, value in given.items():
        if name == "options":
            words += [word for key, number in value.items() for word in ("--set", f"{key}={number:g}")]
        elif name == "tt" and value is None:
            words.append("--dense")
        else:
            text = "x".join(map(str, value)) if name == "tt" else str(value)
            words += ["--" + name.replace("_", "-"), text]
    return words


def parse_tt(text: str) -> tuple[int, ...]:
    """Read ``16x16``; UsageError if it is not whole numbers joined by x."""
    parts = text.split("x")
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"TT shape {text!r} is not understood: write modes joined by x, such as 16x16")
    return tuple(map(int, parts))


def _mismatch(tt: tuple[int, ...], hidden: int) -> str:
    even = next((n for n in range(math.isqrt(hidden), 1, -1) if hidden % n == 0), None)
    fitting = f"--tt {even}x{hidden // even}, or --dense" if even else "--dense, or another --hidden"
    return f"TT shape {' x '.join(map(str, tt))} = {math.prod(tt)} does not match --hidden {hidden}: pass {fitting}"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(number)}' for key, number in value.items())}}}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _typed(key: str, value: object, hint: Any) -> Any:
    """The TOML value as its setting's type: lists become tuples, and whole numbers floats where those are meant."""
    if not _fits(value, hint):
        expected = str(hint).replace("typing.", "") if get_origin(hint) else hint.__name__
        raise UsageError(f"setting {key} = {value!r} is of the wrong type, it must be {expected}")
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        return {name: float(number) for name, number in value.items()}
    return float(value) if isinstance(value, int) and (hint is float or float in get_args(hint)) else value


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(hint)[1]) for item in value.values())
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    return not isinstance(value, bool) and isinstance(value, (int, float) if hint is float else hint)
