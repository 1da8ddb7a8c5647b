"""``.tflite``: the network in float32, or in INT8 throughout.

A tensor train stays two thin FULLY_CONNECTED operators. INT8 quantizes by one scale a tensor; ``int8.py`` chooses.
A hard constraint follows the network, so that the model maps x to u; its formulas are in float32, in INT8 as well.
"""

from __future__ import annotations

import numpy as np

from ..network import Activation
from . import int8
from .arithmetic import constrained
from .flatbuffer import Affine, Model
from .trained import Layer, Trained

_FLOAT = {"tanh": ("TANH", None), "sine": ("SIN", None)}


def write(trained: Trained, quantized: bool) -> bytes:
    """The file; UsageError where the packages that write it are not installed."""
    return _int8(trained) if quantized else _float(trained)


def _float(trained: Trained) -> bytes:
    model = Model(f"{trained.title}, float32")
    start = at = model.variable("x", trained.problem.dimensions, np.float32)
    for layer in trained.layers:
        operands = [at, model.constant(f"{layer.name}.weight", layer.matrix.astype(np.float32))]
        if layer.bias is not None:
            operands.append(model.constant(f"{layer.name}.bias", layer.bias.astype(np.float32)))
        at = model.variable(_name(trained, layer), len(layer.matrix), np.float32)
        model.operator("FULLY_CONNECTED", operands, at, "FullyConnectedOptions")
        if layer.activates:
            code, options = _FLOAT[trained.network.activation]
            after = model.variable(f"{layer.name}.activation", len(layer.matrix), np.float32)
            at = model.operator(code, [at], after, options)
    if trained.formulas:
        at = constrained(model, start, at, trained.formulas, trained.problem.dimensions)
    return model.to_bytes(start, at)


def _int8(trained: Trained) -> bytes:
    quantized = int8.quantize(trained)
    model = Model(f"{trained.title}, int8")
    start = at = model.variable("x", trained.problem.dimensions, np.int8, quantized.inputs)
    for layer in quantized.layers:
        name, width = layer.layer.name, len(layer.matrix)
        operands = [at, model.constant(f"{name}.weight", layer.matrix, Affine(layer.scale))]
        if layer.bias is not None:
            operands.append(model.constant(f"{name}.bias", layer.bias, Affine(layer.unit)))
        at = model.variable(_name(trained, layer.layer), width, np.int8, layer.outputs)
        model.operator("FULLY_CONNECTED", operands, at, "FullyConnectedOptions", version=4)
        if layer.layer.activates:
            at = _activate(model, trained.network.activation, at, name, width)
    if trained.formulas:
        at = _constrained(model, trained, start, at, quantized.constrained)
    return model.to_bytes(start, at)


def _constrained(model: Model, trained: Trained, x: int, network: int, outputs: Affine) -> int:
    """The constraint in float32, between conversions."""
    assert trained.formulas
    width = trained.problem.dimensions
    points = model.variable("x.real", width, np.float32)
    values = model.variable("network.real", 1, np.float32)
    for stored, real in ((x, points), (network, values)):
        model.operator("DEQUANTIZE", [stored], real, "DequantizeOptions", version=2)
    u = constrained(model, points, values, trained.formulas, width)
    return model.operator("QUANTIZE", [u], model.variable("u", 1, np.int8, outputs), "QuantizeOptions")


def _activate(model: Model, activation: Activation, at: int, name: str, width: int) -> int:
    """TANH has an INT8 form, a table of 256 entries; SIN has none and runs in float32 between two conversions."""
    after = model.variable(f"{name}.activation", width, np.int8, int8.ACTIVATED)
    if activation == "tanh":
        return model.operator("TANH", [at], after, version=2)
    real, sine = (model.variable(f"{name}.{part}", width, np.float32) for part in ("real", "sine"))
    model.operator("DEQUANTIZE", [at], real, "DequantizeOptions", version=2)
    model.operator("SIN", [real], sine)
    return model.operator("QUANTIZE", [sine], after, "QuantizeOptions")


def _name(trained: Trained, layer: Layer) -> str:
    if layer is not trained.layers[-1]:
        return f"{layer.name}.sum"
    return "network" if trained.formulas else "u"
