"""All that is quantized inside one step, by the C kernels and by the NumPy oracle, as real values (needs no PyTorch).

Streams of a network's layer are tiles (S, R, C, 4, 4): streams, block rows and block columns. A step is a list of
:class:`picopinn.engine.Pass`, here inside the domain and on its edge. Answers are arrays by name:

* ``streams PASS``: the outputs (n, S);
* ``matrix I``: what stage I multiplies with, inputs x outputs, contracted from its cores if it has some (kernels);
* ``input I PASS``: what stage I is given (kernels);
* ``cotangent I PASS``: the cotangents of stage I's output (oracle: a device answers only sums of these);
* ``gradient``: of all parameters; ``units``: the exponents that gradient sums take in the next step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picopinn.device.base import Device, Rows, Scaling, Values
from picopinn.device.local import LocalDevice
from picopinn.engine import Pass
from picopinn.integer import IntegerEngine
from picopinn.network import Floats, Network, Precision, Program, Stage, Tensor
from picopinn.reference import Reference, Scaled
from picopinn.smx import ZERO_EXPONENT, blocks_of, decode_blocks, encode

PASSES = ("inside", "edge")
Answers = dict[str, NDArray[Any]]


def read(path: Path) -> tuple[tuple[Network, Precision, int, Floats, list[Pass]], Answers]:
    """A step and its answers, from a file that ``benchmarks/first_step.py --write`` made."""
    with np.load(path) as file:
        arrays = dict(file)
    run = json.loads(str(arrays["run"]))
    network = Network(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in run["network"].items()}
    )
    along = {"inside": arrays["directions"], "edge": None}
    passes = [Pass(arrays[f"points {name}"], along[name], arrays[f"cotangents {name}"]) for name in PASSES]
    answers = {name.removeprefix("answer: "): values for name, values in arrays.items() if name.startswith("answer: ")}
    return (network, Precision.parse(run["precision"]), run["seed"], arrays["master"], passes), answers


def differing(found: Answers, expected: Answers) -> dict[str, int]:
    """How many numbers are not equal to the last bit, of what both answer."""
    return {name: int((found[name] != expected[name]).sum()) for name in expected if name in found}


def of_kernels(network: Network, precision: Precision, seed: int, master: Floats, passes: Sequence[Pass]) -> Answers:
    """What the C answers in a run's first step."""
    device = _Watched()
    engine = IntegerEngine(network, precision, "jet", seed=seed, device=device)
    found = _answers(engine, master, passes)
    found |= {f"matrix {i}": m for i, m in enumerate(_matrices(LocalDevice(), engine.program, device.weights))}
    for name, (points, directions) in zip(PASSES, device.given, strict=True):
        inputs = _inputs(LocalDevice(), engine.program, device.weights, points, directions)
        found |= {f"input {i} {name}": values for i, values in enumerate(inputs, 1)}
    return found


def of_oracle(network: Network, precision: Precision, seed: int, master: Floats, passes: Sequence[Pass]) -> Answers:
    """What the NumPy oracle answers in a run's first step."""
    device = _Recorder()
    found = _answers(IntegerEngine(network, precision, "jet", seed=seed, device=device), master, passes)
    for name, cotangents in zip(PASSES, device.cotangents, strict=True):
        found |= {f"cotangent {i} {name}": values for i, values in cotangents.items()}
    return found


def _answers(engine: IntegerEngine, master: Floats, passes: Sequence[Pass]) -> Answers:
    engine.load(master)
    streams = [engine.forward(one.points, one.directions) for one in passes]
    found: Answers = {f"streams {name}": values for name, values in zip(PASSES, streams, strict=True)}
    found["gradient"] = engine.gradient(passes, 0)
    found["units"] = engine.state()["exponents"]
    return found


class _Watched(LocalDevice):
    """The kernels, and what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Rows, Rows | None]] = []

    def load(self, weights: Rows) -> None:
        self.weights = weights
        super().load(weights)

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        self.given.append((points, directions))
        return super().forward(points, directions, keep)


class _Recorder(Reference):
    """The oracle, and the cotangents of every stage's output since ``begin``, of each backward."""

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        self.cotangents: list[dict[int, Floats]] = []
        super().begin(scaling, seed, step)

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        self.cotangents.append({})
        super().backward(points, directions, cotangents, first)

    def _accumulate(self, index: int, c: Scaled, x: Scaled) -> None:
        self.cotangents[-1][index] = _tiles(c.m, c.e)
        super()._accumulate(index, c, x)


def _inputs(device: Device, program: Program, weights: Rows, points: Rows, directions: Rows | None) -> list[Floats]:
    """What every stage but the first is given, by the device's own verbs: it runs the stages before, and then the
    identity, whose product is exact."""
    found = []
    for index in range(1, len(program.stages)):
        short, rows = _ending_in_identity(program, weights, index)
        device.configure(short, 0 if directions is None else len(directions.exponents))
        device.load(rows)
        values = device.forward(points, directions)
        found.append(_tiles(values.mantissas, values.exponents))
    return found


def _ending_in_identity(program: Program, weights: Rows, index: int) -> tuple[Program, Rows]:
    """The stages before ``index``, then the identity with no bias, and their weights."""
    width = program.stages[index].inputs
    one = encode(np.eye(width), program.precision.weights)
    before = [tensor for tensor in program.tensors if tensor.stage < index]
    tensors = (*before, Tensor("identity", (width, width), width, width, one.bits, index), _no_bias(width, index))
    own = _joined(_part(weights, 0, _blocks(before)), Rows(one.blocks.reshape(-1, 16), one.exponents.ravel()))
    short = replace(program, stages=(*program.stages[:index], Stage(width, width)), tensors=tensors)
    return short, _joined(own, _zeros(width))


def _matrices(device: Device, program: Program, weights: Rows) -> list[Floats]:
    """What every stage makes of the rows of the identity."""
    found = []
    for index, stage in enumerate(program.stages):
        mine = [tensor for tensor in program.tensors if tensor.stage == index and not tensor.bias]
        start = _blocks([tensor for tensor in program.tensors if tensor.stage < index])
        chains = () if stage.chain is None else (program.chains[stage.chain],)
        lone = replace(stage, closes=True, chain=0 if chains else None)
        tensors = (*(replace(tensor, stage=0) for tensor in mine), _no_bias(stage.outputs, 0))
        device.configure(replace(program, stages=(lone,), chains=chains, tensors=tensors), 0)
        device.load(_joined(_part(weights, start, start + _blocks(mine)), _zeros(stage.outputs)))
        rows = encode(np.eye(stage.inputs), program.precision.inputs)
        high, wide = rows.exponents.shape
        points = Rows(rows.blocks.reshape(high, 1, wide, 16), rows.exponents.reshape(high, 1, wide))
        values = device.forward(points, None)
        found.append(_tiles(values.mantissas, values.exponents))
    return found


def _no_bias(width: int, stage: int) -> Tensor:
    return Tensor("no bias", (width,), 1, width, 16, stage, bias=True)


def _zeros(width: int) -> Rows:
    count = blocks_of(width)
    return Rows(np.zeros((count, 16), np.int16), np.full(count, ZERO_EXPONENT, np.int8))


def _blocks(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.blocks for tensor in tensors)


def _part(rows: Rows, start: int, stop: int) -> Rows:
    return Rows(rows.mantissas[start:stop], rows.exponents[start:stop])


def _joined(*parts: Rows) -> Rows:
    mantissas, exponents = [part.mantissas for part in parts], [part.exponents for part in parts]
    return Rows(np.concatenate(mantissas), np.concatenate(exponents))


def _tiles(mantissas: NDArray[Any], exponents: NDArray[Any]) -> Floats:
    """(R, S, C, 16) and (R, S, C) as real values (S, R, C, 4, 4)."""
    values = decode_blocks(mantissas, exponents)
    return np.ascontiguousarray(values.reshape(*exponents.shape, 4, 4).swapaxes(0, 1))
