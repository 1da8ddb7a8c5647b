"""The float32 body: the streams of docs/spec.md (4 to 6 and 8) in NumPy floats, with a backward written by hand.

The yardstick for the integers: the same network, streams and formulas with no quantization.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .engine import Pass, Range
from .network import SUMMED, Activation, Floats, Mode, Network, Precision, odd_and_even, stream_count

Array = NDArray[Any]  # floats of the engine's dtype


class _Phi(Protocol):
    """An activation by cancellation-free formulas; h, p are its value and slope where a step starts."""

    def start(self, z: Array) -> tuple[Array, Array]:
        """h, p."""

    def bends(self, h: Array, p: Array) -> tuple[Array, Array]:
        """Second and third derivative."""

    def step(self, h: Array, p: Array, d: Array) -> tuple[Array, Array]:
        """Changes of value and slope over a step d."""

    def pair(self, h: Array, p: Array, a: Array) -> tuple[Array, Array, Array, Array]:
        """Over steps +-a: odd and even part of the change of value, then of the change of slope."""


class _Tanh:
    def start(self, z: Array) -> tuple[Array, Array]:
        h = np.tanh(z)
        return h, 1 - h * h

    def bends(self, h: Array, p: Array) -> tuple[Array, Array]:
        second = -2 * h * p
        return second, -2 * (p * p + h * second)

    def step(self, h: Array, p: Array, d: Array) -> tuple[Array, Array]:
        t = np.tanh(d)
        v = p * t / (1 + h * t)
        return v, -v * (2 * h + v)

    def pair(self, h: Array, p: Array, a: Array) -> tuple[Array, Array, Array, Array]:
        t = np.tanh(a)
        ht = h * t
        odd = p * t / (1 - ht * ht)
        even = -ht * odd
        return odd, even, -2 * (h + even) * odd, -even * (2 * h + even) - odd * odd


class _Sine:
    def start(self, z: Array) -> tuple[Array, Array]:
        return np.sin(z), np.cos(z)

    def bends(self, h: Array, p: Array) -> tuple[Array, Array]:
        return -h, -p

    def step(self, h: Array, p: Array, d: Array) -> tuple[Array, Array]:
        odd, even, slope_odd, slope_even = self.pair(h, p, d)
        return odd + even, slope_odd + slope_even

    def pair(self, h: Array, p: Array, a: Array) -> tuple[Array, Array, Array, Array]:
        sine, versine = np.sin(a), 2 * np.sin(a / 2) ** 2
        return p * sine, -h * versine, -h * sine, -p * versine


_PHI: dict[Activation, _Phi] = {"tanh": _Tanh(), "sine": _Sine()}


@dataclass(frozen=True, eq=False)
class _Slopes:
    """The derivative of an activation over all streams (spec 6).

    Attributes:
        own: of each stream by itself, broadcasts to (S, n, width).
        base: of streams 1.. by stream 0, (S - 1, n, width): D and N, or P; None if streams are independent.
        mode: says which cross terms between odd and even streams exist.
    """

    own: Array
    base: Array | None
    mode: Mode

    def transpose(self, c: Array) -> None:
        """Turn cotangents of the outputs, (S, n, width), into those of the inputs.

        A stream at a time, so that the numbers at hand stay in a core's cache.
        """
        if self.base is None:
            c *= self.own
            return
        own = np.broadcast_to(self.own, c.shape)
        c[0] *= own[0]
        if self.mode in SUMMED:
            self._transpose_summed(c)
            return
        for k in range(1, len(c), 2):
            odd, even, by_odd, by_even = c[k], c[k + 1], *self.base[k - 1 : k + 1]
            c[0] += by_odd * odd + by_even * even
            crossed = by_odd * odd if self.mode == "odd-even" else None
            odd *= own[k]
            if self.mode != "difference":
                odd += by_odd * even
            even *= own[k + 1]
            if crossed is not None:
                even += crossed

    def _transpose_summed(self, c: Array) -> None:
        """What follows where directions share one even part, the last stream."""
        assert self.base is not None
        for k in range(1, len(c)):
            c[0] += self.base[k - 1] * c[k]
            c[k] *= self.own
            if k <= _counted(self.mode, len(c)):
                c[k] += self.base[k - 1] * c[-1]


def _counted(mode: Mode, streams: int) -> int:
    """How many directions a shared even part is of."""
    return streams - 2 - (mode == "laplacian-time")


def _naive(phi: _Phi, z: Array) -> tuple[Array, _Slopes]:
    h, p = phi.start(z)
    return h, _Slopes(p, None, "naive")


def _difference(phi: _Phi, z: Array) -> tuple[Array, _Slopes]:
    h, p = phi.start(z[0])
    out, own = np.empty_like(z), np.empty_like(z)
    out[0], own[0] = h, p
    out[1:], base = phi.step(h, p, z[1:])
    np.add(p, base, out=own[1:])
    return out, _Slopes(own, base, "difference")


def _odd_even(phi: _Phi, z: Array) -> tuple[Array, _Slopes]:
    h, p = phi.start(z[0])
    out, own, base = np.empty_like(z), np.empty_like(z), np.empty_like(z[1:])
    step, bend = phi.step(h, p, z[2::2])  # from z to z + s, then to z + s +- a
    odd, even, base[0::2], slope_even = phi.pair(h + step, p + bend, z[1::2])
    out[0], out[1::2], out[2::2] = h, odd, step + even
    np.add(bend, slope_even, out=base[1::2])
    own[0] = p
    own[1::2] = own[2::2] = p + base[1::2]
    return out, _Slopes(own, base, "odd-even")


def _jet(phi: _Phi, z: Array) -> tuple[Array, _Slopes]:
    h, p = phi.start(z[0])
    second, third = phi.bends(h, p)
    out, base = np.empty_like(z), np.empty_like(z[1:])
    out[0] = h
    for k in range(1, len(z), 2):  # a direction at a time, so that the numbers at hand stay in a core's cache
        a, s = z[k : k + 2]
        bend = np.multiply(second, a, out=base[k - 1])
        half = 0.5 * a
        np.multiply(p, a, out=out[k])
        np.add(p * s, bend * half, out=out[k + 1])
        np.add(second * s, third * (a * half), out=base[k])
    return out, _Slopes(p, base, "jet")


def _summed(mode: Mode, phi: _Phi, z: Array) -> tuple[Array, _Slopes]:
    """Jets whose even parts travel as their sum."""
    h, p = phi.start(z[0])
    second, third = phi.bends(h, p)
    out, base = np.empty_like(z), np.empty_like(z[1:])
    out[0] = h
    squares = np.zeros_like(h)
    for k in range(1, len(z) - 1):
        np.multiply(p, z[k], out=out[k])
        np.multiply(second, z[k], out=base[k - 1])
        if k <= _counted(mode, len(z)):
            squares += z[k] * z[k]
    if len(z) > 1:
        half = 0.5 * squares
        np.add(p * z[-1], second * half, out=out[-1])
        np.add(second * z[-1], third * half, out=base[-1])
    return out, _Slopes(p, base, mode)


_ACTIVATE: dict[Mode, Callable[[_Phi, Array], tuple[Array, _Slopes]]] = {
    "naive": _naive,
    "difference": _difference,
    "odd-even": _odd_even,
    "jet": _jet,
    "laplacian": partial(_summed, "laplacian"),
    "laplacian-time": partial(_summed, "laplacian-time"),
}


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies in the flat master."""

    start: int
    size: int
    shape: tuple[int, ...]

    def view(self, flat: Array) -> Array:
        return flat[self.start : self.start + self.size].reshape(self.shape)


@dataclass(frozen=True)
class _Stage:
    """One matrix, the product of its cores: x W^T or, if it expands, x W; then bias and activation if it has them."""

    cores: tuple[_Slot, ...]
    expand: bool
    bias: _Slot | None
    activates: bool


def _plan(network: Network, mode: Mode) -> list[_Stage]:
    """Stages of the contracted network; names find each tensor wherever the network's own order puts it."""
    slots: dict[str, _Slot] = {}
    start = 0
    for tensor in network.program(Precision(), mode).tensors:
        slots[tensor.name] = _Slot(start, tensor.size, tensor.shape)
        start += tensor.size
    program = replace(network, contraction="prs").program(Precision(), mode)
    stages = []
    for index, stage in enumerate(program.stages):
        mine = [t for t in program.tensors if t.stage == index]
        cores = tuple(slots[t.name] for t in mine if not t.bias)
        bias = next((slots[t.name] for t in mine if t.bias), None)
        activates = stage.closes and index + 1 < len(program.stages)
        stages.append(_Stage(cores, stage.expand, bias, activates))
    return stages


def _contract(cores: Sequence[Array]) -> list[Array]:
    """F_k = C_k ... C_d of a half-chain for k = 1..d, each (r_{k-1}, n_k ... n_d) (spec 8); F_1 is the stage matrix."""
    tails: list[Array] = [cores[-1].reshape(cores[-1].shape[0], -1)]
    for core in reversed(cores[:-1]):
        tail = core.reshape(-1, core.shape[2]) @ tails[0]
        tails.insert(0, tail.reshape(core.shape[0], -1))
    return tails


def _core_gradients(cores: Sequence[Array], tails: Sequence[Array], gradient: Array) -> list[Array]:
    """Gradients of the cores from the gradient of their product."""
    result = []
    for core, tail in zip(cores[:-1], tails[1:], strict=True):
        matrix = core.reshape(-1, core.shape[2])
        gradient = gradient.reshape(matrix.shape[0], -1)
        result.append((gradient @ tail.T).reshape(core.shape))
        gradient = matrix.T @ gradient
    return [*result, gradient.reshape(cores[-1].shape)]


@dataclass(frozen=True, eq=False)
class _Tape:
    """A forward kept for its backward: every stage's input (rows, cols), and slopes where it activates."""

    points: Floats
    directions: Floats | None
    inputs: list[Array]
    slopes: list[_Slopes | None]
    outputs: Array  # (S n, 1)


class FloatEngine:
    """An :class:`~picopinn.engine.Engine` in NumPy floats (``dtype``: float32, or float64 to check it against)."""

    def __init__(self, network: Network, mode: Mode, dtype: DTypeLike = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        self._mode: Mode = mode
        self._phi = _PHI[network.activation]
        self._activate = _ACTIVATE[mode]
        self._stages = _plan(network, mode)
        self._first = next(index for index, stage in enumerate(self._stages) if stage.activates)
        self._flat: Array = np.zeros(network.parameters, self.dtype)
        self._tails: list[list[Array]] = []
        self._tapes: deque[_Tape] = deque(maxlen=2)  # interior and boundary

    def load(self, master: Floats) -> None:
        self._flat = master.astype(self.dtype)
        self._tails = [_contract([core.view(self._flat) for core in stage.cores]) for stage in self._stages]
        self._tapes.clear()

    def snap(self, points: Floats) -> Floats:
        return points.astype(self.dtype).astype(np.float64)

    def snap_directions(self, directions: Floats) -> Floats:
        return self.snap(directions)

    def forward(self, points: Floats, directions: Floats | None) -> Floats:
        tape = self._record(points, directions)
        self._tapes.append(tape)
        streams: Floats = tape.outputs.reshape(-1, len(points)).T.astype(np.float64)
        return streams

    def gradient(self, passes: Sequence[Pass], step: int) -> Floats:
        flat = np.zeros_like(self._flat)
        matrices = [np.zeros_like(tails[0]) for tails in self._tails]
        for one in passes:
            self._backward(self._tape(one), one.cotangents, matrices, flat)
        for stage, tails, matrix in zip(self._stages, self._tails, matrices, strict=True):
            cores = [core.view(self._flat) for core in stage.cores]
            for core, gradient in zip(stage.cores, _core_gradients(cores, tails, matrix), strict=True):
                core.view(flat)[...] = gradient
        return flat.astype(np.float64)

    def state(self) -> dict[str, NDArray[Any]]:
        return {}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Floats keep nothing beyond the master."""

    def evaluator(self) -> FloatEngine:
        return self

    def ranges(self) -> list[Range]:
        return []

    def warnings(self) -> list[str]:
        return []

    def _rows(self, points: Floats, directions: Floats | None) -> Array:
        """What enters the first stage: the points, and the directions, which are alike at every point (spec 4).

        Naive streams are points of their own, and enter as such: their rounding is what that mode is shown for.
        """
        if directions is None:
            return points.astype(self.dtype)
        if self._mode == "naive":
            return self._streams(points.astype(self.dtype), directions.astype(self.dtype)).reshape(-1, points.shape[1])
        return np.concatenate([points, directions], dtype=self.dtype, casting="same_kind")

    def _streams(self, points: Array, steps: Array) -> Array:
        """All streams (S, n, cols) at points (n, cols), of steps (K, cols)."""
        streams = np.zeros((stream_count(self._mode, len(steps)), *points.shape), self.dtype)
        odd, _ = odd_and_even(self._mode, len(streams))
        streams[odd] = steps[:, None, :]
        if self._mode in ("naive", "difference"):
            streams[2::2] = -streams[1::2]
        if self._mode == "naive":
            streams += points
        else:
            streams[0] = points
        return streams

    def _gather(self, c: Array) -> Array:
        """Cotangents of the rows (n + K, cols), from those of the streams (S, n, cols)."""
        odd, _ = odd_and_even(self._mode, len(c))
        steps = c[odd].sum(axis=1)
        if self._mode == "difference":
            steps -= c[2::2].sum(axis=1)
        return np.concatenate([c[0], steps])

    def _apart(self, index: int) -> bool:
        """Whether rows become streams, or streams rows, at the activation of this stage."""
        return index == self._first and self._mode != "naive"

    def _biased(self, rows: Array, points: int) -> Array:
        """The rows that a bias is added to: stream 0, or every stream that is a point of its own."""
        return rows if self._mode == "naive" else rows[:points]

    def _record(self, points: Floats, directions: Floats | None) -> _Tape:
        count = len(points)
        x = self._rows(points, directions)
        inputs: list[Array] = []
        slopes: list[_Slopes | None] = []
        for index, (stage, tails) in enumerate(zip(self._stages, self._tails, strict=True)):
            inputs.append(x)
            x = x @ (tails[0] if stage.expand else tails[0].T)
            if stage.bias is not None:
                self._biased(x, count)[...] += stage.bias.view(self._flat)
            slope = None
            if stage.activates:
                if self._apart(index):
                    x = self._streams(x[:count], x[count:])
                out, slope = self._activate(self._phi, x.reshape(-1, count, x.shape[-1]))
                x = out.reshape(-1, x.shape[-1])
            slopes.append(slope)
        return _Tape(points, directions, inputs, slopes, x)

    def _tape(self, one: Pass) -> _Tape:
        for tape in self._tapes:
            if tape.points is one.points and tape.directions is one.directions:
                return tape
        return self._record(one.points, one.directions)

    def _backward(self, tape: _Tape, cotangents: Floats, matrices: list[Array], flat: Array) -> None:
        """Add one pass's gradients: of the stage matrices to ``matrices``, of the biases into ``flat``."""
        count = len(tape.points)
        c: Array = cotangents.T.astype(self.dtype).reshape(-1, 1)
        for index in reversed(range(len(self._stages))):
            stage, matrix, x, slope = self._stages[index], self._tails[index][0], tape.inputs[index], tape.slopes[index]
            if slope is not None:
                streams = c.reshape(-1, count, c.shape[-1])
                slope.transpose(streams)
                if self._apart(index):
                    c = self._gather(streams)
            if stage.bias is not None:
                stage.bias.view(flat)[...] += self._biased(c, count).sum(axis=0)
            matrices[index] += x.T @ c if stage.expand else c.T @ x
            if index:
                c = c @ (matrix.T if stage.expand else matrix)
