"""``.npz``: weights by the names of their tensors, for NumPy or anything that reads its archives (docs/export.md)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .trained import Trained

FORMAT = 1


def write(trained: Trained) -> bytes:
    """The file: ``format``, ``title``, ``settings`` (TOML, of a run), ``activation``, ``layers`` (names in order), each
    layer's ``.matrix`` and ``.bias``, a hard constraint's ``offset`` and ``factor``, and all that was trained.
    """
    arrays: dict[str, Any] = {"format": FORMAT, "title": trained.title, "activation": trained.network.activation}
    arrays["layers"] = np.array([layer.name for layer in trained.layers])
    if trained.settings:
        arrays["settings"] = trained.settings.to_toml()
    if trained.formulas:
        arrays |= {"offset": trained.formulas.offset.text(), "factor": trained.formulas.factor.text()}
    for layer in trained.layers:
        arrays[f"{layer.name}.matrix"] = layer.matrix
        if layer.bias is not None:
            arrays[f"{layer.name}.bias"] = layer.bias
    arrays |= {f"trained.{name}": tensor for name, tensor in trained.tensors.items()}
    arrays |= {f"unknown.{name}": value for name, value in trained.solver.unknowns.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
