"""``.npz``: weights by the names of their tensors, for NumPy or anything that reads its archives (docs/export.md)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .trained import Trained

FORMAT = 1


def write(trained: Trained) -> bytes:
    """The file: ``format``, ``settings`` (TOML), ``layers`` (names in order), each layer's ``.matrix`` and ``.bias``,
    and every parameter tensor as it was trained.
    """
    arrays: dict[str, Any] = {"format": FORMAT, "settings": trained.settings.to_toml()}
    arrays["layers"] = np.array([layer.name for layer in trained.layers])
    for layer in trained.layers:
        arrays[f"{layer.name}.matrix"] = layer.matrix
        if layer.bias is not None:
            arrays[f"{layer.name}.bias"] = layer.bias
    arrays |= {f"trained.{name}": tensor for name, tensor in trained.tensors.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
