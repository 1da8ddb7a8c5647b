"""Cases for the tests of bit exactness: a network and every integer that goes into it.

All numbers come from ``RandomState`` as integers: NumPy never changes those streams, so the hashes in
``vectors/network.json`` hold with any NumPy on any machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from picopinn.device.base import Device, Rows, Scaling
from picopinn.network import ACTIVATIONS, CONTRACTIONS, MODES, Mode, Network, Precision, Program, stream_count
from picopinn.smx import BLOCK, ZERO_EXPONENT, largest

LANES = BLOCK * BLOCK
STYLES = ("plain", "full", "zero", "huge", "spread", "edge")
SHAPES: dict[str, dict[str, Any]] = {  # of hidden layers
    "dense": {"hidden": 16, "tt": None},
    "ragged": {"hidden": 13, "tt": None},
    "tt1": {"hidden": 12, "tt": (12,)},
    "tt2": {"hidden": 16, "tt": (4, 4)},
    "tt3": {"hidden": 24, "tt": (2, 3, 4)},
    "tt4": {"hidden": 24, "tt": (2, 1, 3, 4)},
}
LARGE: dict[str, dict[str, Any]] = {"256": {"hidden": 256, "tt": None}, "16x16": {"hidden": 256, "tt": (16, 16)}}
TINY: dict[str, dict[str, Any]] = {"4": {"hidden": 4, "tt": None}}  # few bytes
DEFAULT = Precision()
Outputs = dict[str, NDArray[Any]]


def blocks(rng: np.random.RandomState, shape: tuple[int, ...], bits: ArrayLike, style: str, scale: int = 0) -> Rows:
    """Blocks of the given widths; in the plain style their values are about 2^scale and one in ten is zero."""
    width = np.broadcast_to(np.asarray(bits, dtype=np.int64), shape)
    limit = largest(width)[..., None]
    mantissas = np.asarray(rng.randint(-(1 << 15), 1 << 15, (*shape, LANES), dtype=np.int64)) % (2 * limit + 1) - limit
    exponents = scale - (width - 1)
    if style in ("plain", "spread"):
        mantissas[rng.randint(10, size=shape) == 0] = 0
        reach = 4 if style == "plain" else 128
        exponents = exponents + rng.randint(1 - reach, reach, shape)
    elif style == "full":
        mantissas = np.where(mantissas < 0, -limit, limit)
    elif style == "zero":
        mantissas[:] = 0
    elif style == "huge":  # one block above all others
        chosen = rng.randint(exponents.size)
        exponents = exponents + np.where(np.arange(exponents.size).reshape(shape) == chosen, 30, -30)
    elif style == "edge":
        exponents = np.asarray([-127, 127])[rng.randint(2, size=shape)]
    return _rows(mantissas, exponents)


def _rows(mantissas: NDArray[np.int64], exponents: NDArray[np.int64]) -> Rows:
    there = mantissas.any(axis=-1)
    limited = np.where(there, np.clip(exponents, -127, 127), ZERO_EXPONENT)
    return Rows(mantissas.astype(np.int16), limited.astype(np.int8))


def masked(rows: Rows, keep: NDArray[np.bool_]) -> Rows:
    """``rows`` with the lanes that ``keep`` denies set to zero."""
    return _rows(np.where(keep, rows.mantissas, 0).astype(np.int64), rows.exponents.astype(np.int64))


@dataclass(frozen=True)
class Spec:
    """What a case is made from. Styles are those of weights, of points and directions, and of cotangents."""

    shape: str = "dense"
    contraction: str = "prs"
    activation: str = "tanh"
    mode: Mode = "jet"
    precision: Precision = DEFAULT
    inputs: int = 2
    outputs: int = 1
    layers: int = 2
    rank: int = 3
    directions: int = 2
    microbatches: int = 2
    seed: int = 0
    styles: tuple[str, str, str] = ("plain", "plain", "plain")
    limit: int = 31  # the limit exponent, if the number of terms allows it
    gradient_exponent: int | None = None  # of every accumulator; None: all different

    @property
    def network(self) -> Network:
        return Network(
            self.inputs,
            self.outputs,
            layers=self.layers,
            rank=self.rank,
            activation=self.activation,  # type: ignore[arg-type]
            contraction=self.contraction,  # type: ignore[arg-type]
            **{**SHAPES, **LARGE, **TINY}[self.shape],
        )

    def case(self) -> Case:
        rng = np.random.RandomState(self.seed)
        program = self.network.program(self.precision, self.mode)
        count, streams = self.microbatches, stream_count(self.mode, self.directions)
        weights, points, cotangents = self.styles
        own_points = streams if self.mode == "naive" else 1
        return Case(
            program,
            self.directions,
            _weights(rng, program, weights),
            blocks(rng, (count, own_points, program.stages[0].in_blocks), program.precision.inputs, points),
            _directions(rng, program, self.directions, points),
            _cotangents(rng, program, (count, streams), cotangents, pitch := int(rng.randint(-20, 20))),
            self._scaling(rng, program, pitch),
            *(int(x) for x in rng.randint(0, 1 << 31, 3, dtype=np.int64)),
        )

    def _scaling(self, rng: np.random.RandomState, program: Program, pitch: int) -> Scaling:
        """Exponents that keep most terms of cotangents of about 2^pitch below the limit, but not all."""
        terms = max(s.panels for s in program.stages) * self.microbatches * stream_count(program.mode, self.directions)
        limit = min(self.limit, 30 - (terms - 1).bit_length())
        exponents = pitch - limit + rng.randint(-2, 14, sum(1 + s.closes for s in program.stages))
        if self.gradient_exponent is not None:
            exponents[:] = self.gradient_exponent
        return Scaling(exponents.astype(np.int16), limit)


@dataclass(frozen=True, eq=False)
class Case:
    """All that a device is given: its weights, one batch forward, the same batch backward."""

    program: Program
    directions: int
    weights: Rows
    points: Rows
    along: Rows | None
    cotangents: Rows
    scaling: Scaling
    seed: int
    step: int
    first: int

    def run(self, device: Device, keep: bool = True) -> Outputs:
        """Everything the device answers."""
        device.configure(self.program, self.directions)
        device.load(self.weights)
        values = device.forward(self.points, self.along, keep=keep)
        return {"values": values.mantissas, "value exponents": values.exponents, **self.backward(device)}

    def backward(self, device: Device) -> Outputs:
        """The gradients of one step, and the flags."""
        device.begin(self.scaling, self.seed, self.step)
        device.backward(self.points, self.along, self.cotangents, self.first)
        gradients = device.gradients()
        return {
            "gradients": gradients.values.mantissas,
            "gradient exponents": gradients.values.exponents,
            "peaks": gradients.peaks,
            "flags": np.array([device.flags()], np.int32),
        }


def _weights(rng: np.random.RandomState, program: Program, style: str) -> Rows:
    widths = np.concatenate([np.full(t.blocks, t.bits) for t in program.tensors])
    element = np.concatenate([t.element_index() for t in program.tensors]).reshape(-1, LANES)
    return masked(blocks(rng, widths.shape, widths, style, rng.randint(-4, 1)), element >= 0)


def _directions(rng: np.random.RandomState, program: Program, count: int, style: str) -> Rows | None:
    """Block rows of four equal rows."""
    if not count or program.mode == "naive":
        return None
    rows = blocks(rng, (count, program.stages[0].in_blocks), program.precision.inputs, style, rng.randint(-12, 4))
    first = np.tile(rows.mantissas[..., :BLOCK], BLOCK)
    return _rows(first.astype(np.int64), rows.exponents.astype(np.int64))


def _cotangents(rng: np.random.RandomState, program: Program, shape: tuple[int, int], style: str, pitch: int) -> Rows:
    """About 2^pitch; zero in the columns that pad the outputs."""
    last = program.stages[-1].out_blocks
    rows = blocks(rng, (*shape, last), program.precision.gradients, style, pitch)
    column = np.arange(last)[:, None] * BLOCK + np.arange(LANES) % BLOCK
    return masked(rows, column < program.outputs)


def differing(one: Outputs, other: Outputs) -> list[str]:
    """What is not equal to the last bit; empty is what tests want."""
    return [name for name in one if not np.array_equal(one[name], other[name])]


def digest(outputs: Outputs) -> str:
    """One hash of all outputs, the same on any machine."""
    parts = [array.astype(array.dtype.newbyteorder("<")).tobytes() for array in outputs.values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def any_spec(seed: int) -> Spec:
    """The ``seed``-th of an endless list of cases of every kind; one in three has an extreme style somewhere."""
    rng = np.random.RandomState(seed)

    def one_of(choices: Any) -> Any:
        return choices[rng.randint(len(choices))]

    def style() -> str:
        return str(one_of(STYLES)) if rng.randint(8) == 0 else "plain"

    return Spec(
        shape=one_of(list(SHAPES)),
        contraction=one_of(CONTRACTIONS),
        activation=one_of(ACTIVATIONS),
        mode=one_of(MODES),
        precision=Precision(*(int(b) for b in rng.randint(4, 17, 5))),
        inputs=int(rng.randint(1, 10)),
        outputs=int(one_of([1, 1, 2, 5])),
        layers=int(rng.randint(1, 4)),
        rank=int(rng.randint(1, 9)),
        directions=int(rng.randint(4)),
        microbatches=int(rng.randint(1, 4)),
        seed=seed,
        styles=(style(), style(), style()),
        limit=int(rng.randint(8, 31)),
    )
