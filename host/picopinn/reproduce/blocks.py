"""SMX against one-dimensional blocks kept twice: what a training step quantizes and stores.

A 4x4 block is the same read across or down. A one-dimensional block (OCP MX, here of 16 too) runs along the axis that a
product sums over, so that a tensor which two products read along different axes is quantized and kept once for each: an
activation by the next layer and by the weights' gradient, a weight by forward and backward, a cotangent likewise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from .. import workload
from ..settings import Settings

_EXPONENT_BITS, _BLOCK = 8, 16


@dataclass(frozen=True)
class Cost:
    """Of one training step: numbers quantized, and bytes of them written."""

    elements: int
    nbytes: int


def costs(settings: Settings) -> tuple[Cost, Cost]:
    """Of a step in SMX, and in one-dimensional blocks."""
    inside, outside = settings.microbatches()
    program = settings.network().program(settings.widths(), settings.mode())
    text = workload.to_json("", program, 4 * inside, 4 * outside, settings.streamed(), settings.pde().dimensions)
    step = json.loads(text)
    tensors = {tensor["name"]: tensor for tensor in step["tensors"] if tensor["store"] == "smx"}
    phases: dict[str, set[str]] = {}
    times: dict[str, int] = {}
    for section in step["sections"]:
        for operation in section["operations"]:
            if operation["op"] == "gemm" and operation["phase"] in ("forward", "backward", "gradient"):
                for name in {operation["a"], operation["b"]} & tensors.keys():
                    phases.setdefault(name, set()).add(operation["phase"])
                    times[name] = section["repeat"] if tensors[name]["scope"] == "microbatch" else 1
    found = []
    for one_axis in (False, True):
        elements = nbytes = 0
        for name, read in phases.items():
            tensor = tensors[name]
            count = tensor["rows"] * tensor["cols"] * times[name] * (len(read) if one_axis else 1)
            elements += count
            nbytes += count * (tensor["bits"] * _BLOCK + _EXPONENT_BITS) // (8 * _BLOCK)
        found.append(Cost(elements, nbytes))
    return found[0], found[1]
