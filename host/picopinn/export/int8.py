"""How a network becomes INT8: ranges from points of the problem, and weights fitted anew, layer after layer.

Activations in [-1, 1] have a step of 1/128 whatever their size, so that rounding every number for itself loses more
than a solver can spare (1.8e-2 of poisson2d). So each layer's weights are fitted, by least squares over points of the
problem, to give the sums of the float network from the *quantized* inputs that it will have; a weak pull towards the
trained weights decides where the points do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..network import Floats
from ..problems import Problem
from .flatbuffer import Affine
from .trained import Layer, Trained

POINTS = 10_000  # to calibrate with; a tenth of them on the boundary
SEED = 20251209  # of those points
ACTIVATED = Affine(1 / 128)  # of an activation's output: what TANH in INT8 wants
_PULL = 1e-5  # towards the trained weights, as a part of the inputs' mean square
_LEAST, _MOST = -128, 127


@dataclass(frozen=True, eq=False)
class Int8Layer:
    """A layer in integers.

    Attributes:
        layer: what it was made of.
        matrix: (outputs, inputs), -127 to 127, of step ``scale``.
        bias: (outputs,), or None.
        unit: of sums and bias: the inputs' scale times ``scale``.
        outputs: how the sums are stored, before an activation.
    """

    layer: Layer
    matrix: NDArray[np.int8]
    scale: float
    bias: NDArray[np.int32] | None
    unit: float
    outputs: Affine

    def sums(self, steps: Floats) -> Floats:
        """What the layer makes of inputs (n, inputs), counted in steps from their zero: (n, outputs), stored."""
        bias = 0 if self.bias is None else self.bias
        return hold((steps @ self.matrix.T.astype(np.float64) + bias) * self.unit, self.outputs)


@dataclass(frozen=True, eq=False)
class Int8Network:
    """How x is stored, the layers, and how u is stored where a hard constraint makes it of the network's values."""

    inputs: Affine
    layers: list[Int8Layer]
    constrained: Affine


def quantize(trained: Trained) -> Int8Network:
    """The network in INT8, calibrated on its problem; the same for the same run."""
    phi = np.tanh if trained.network.activation == "tanh" else np.sin
    x = real = calibration_points(trained.problem)  # what a float network has before each layer
    inputs = affine = span(x)
    steps, layers = hold(x, inputs), []  # and the integers
    for layer in trained.layers:
        sums = real @ layer.matrix.T + (0 if layer.bias is None else layer.bias)
        made = _layer(layer, sums, steps, affine)
        layers.append(made)
        real, affine, steps = sums, made.outputs, made.sums(steps)
        if layer.activates:
            real, steps, affine = phi(sums), hold(phi(steps * affine.scale), ACTIVATED), ACTIVATED
    constraint = trained.problem.constraint(x)
    u = real if constraint is None else constraint.offset.value + constraint.factor.value * real[:, 0]
    return Int8Network(inputs, layers, span(u))


def calibration_points(problem: Problem) -> Floats:
    """Points of the problem (n, D), inside and on the boundary, the same each time."""
    rng = np.random.default_rng(SEED)
    edge = POINTS // 10
    return np.concatenate([problem.interior(rng, POINTS - edge), problem.edge(rng, edge)])


def span(values: Floats) -> Affine:
    """The 256 steps that reach over all values and 0."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / (_MOST - _LEAST) or 1.0
    return Affine(scale, round(_LEAST - low / scale))


def hold(values: Floats, affine: Affine) -> Floats:
    """The nearest numbers of steps from zero that are stored."""
    steps: Floats = np.clip(np.round(values / affine.scale), _LEAST - affine.zero, _MOST - affine.zero)
    return steps


def _layer(layer: Layer, sums: Floats, steps: Floats, affine: Affine) -> Int8Layer:
    """The layer that comes closest to ``sums`` (n, outputs) from inputs (n, inputs) of so many steps."""
    matrix, bias = _fit(layer, sums, steps * affine.scale)
    scale = float(np.abs(matrix).max()) / _MOST or 1.0
    whole = np.round(matrix / scale)
    unit = affine.scale * scale
    made = steps @ whole.T * unit
    if bias is not None:  # makes up for what rounding the matrix shifts, on average
        bias = np.round((sums - made).mean(axis=0) / unit)
        made += bias * unit
    kept = None if bias is None else bias.astype(np.int32)
    return Int8Layer(layer, whole.astype(np.int8), scale, kept, unit, span(made))


def _fit(layer: Layer, sums: Floats, inputs: Floats) -> tuple[Floats, Floats | None]:
    """Matrix and bias by ridge regression around the trained ones."""
    trained = layer.matrix
    if layer.bias is not None:
        inputs = np.column_stack([inputs, np.ones(len(inputs))])
        trained = np.column_stack([trained, layer.bias])
    gram = inputs.T @ inputs
    gram[np.diag_indices_from(gram)] += _PULL * np.trace(gram) / len(gram) + np.finfo(float).tiny
    fitted = trained + np.linalg.solve(gram, inputs.T @ (sums - inputs @ trained.T)).T
    return (fitted, None) if layer.bias is None else (fitted[:, :-1], fitted[:, -1])
