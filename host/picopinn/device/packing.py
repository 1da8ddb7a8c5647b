"""Numbers as they travel to a device and back: matrices without padding (docs/spec.md, "wire")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ppn import messages

from ..network import ACTIVATIONS, MODES, Program, Tensor
from ..smx import BLOCK, blocks_of
from .base import Gradients, Rows, Values

LANES = BLOCK * BLOCK
Bytes = NDArray[np.uint8]


def program_bytes(program: Program, directions: int) -> bytes:
    """A program for up to so many directions, as CONFIGURE sends it."""
    stages = [
        (s.rows, s.cols, s.panels, int(s.expand), int(s.closes), -1 if s.chain is None else s.chain)
        for s in program.stages
    ]
    chains = [(c.modes, c.ranks) for c in program.chains]
    bits = program.precision
    widths = (bits.weights, bits.activations, bits.base, bits.gradients, bits.inputs)
    codes = (ACTIVATIONS.index(program.activation), MODES.index(program.mode), *widths)
    return messages.program(stages, chains, directions, codes)


def pack_rows(rows: Rows, columns: int) -> Bytes:
    """Block rows (..., B, 16) as (..., bytes): mantissas (4, columns), then B exponents."""
    packed = _trim(rows.mantissas, columns)
    return _join(packed.reshape(*packed.shape[:-2], -1), rows.exponents)


def pack_directions(rows: Rows, columns: int) -> Bytes:
    """The same for rows whose four points are equal: one of them."""
    return _join(_trim(rows.mantissas, columns)[..., 0, :], rows.exponents)


def unpack_values(packed: bytes, streams: int, columns: int) -> Values:
    """Packed outputs of microbatches, as (n, streams, B, 16) with zeros where nothing travelled."""
    blocks = blocks_of(columns)
    layout = np.dtype([("mantissas", "<i4", (BLOCK, columns)), ("exponents", "<i2", (blocks,))])
    received = np.frombuffer(packed, layout).reshape(-1, streams)
    mantissas = np.zeros((*received.shape, BLOCK, blocks * BLOCK), np.int32)
    mantissas[..., :columns] = received["mantissas"]
    tiles = mantissas.reshape(*received.shape, BLOCK, blocks, BLOCK).swapaxes(-3, -2)
    return Values(
        np.ascontiguousarray(tiles).reshape(*received.shape, blocks, LANES),
        np.ascontiguousarray(received["exponents"], np.int16),
    )


class Parameters:
    """How the parameters of a program travel: without padding, narrow matrices in bytes; a bias is a single row."""

    def __init__(self, program: Program) -> None:
        self._lanes = np.concatenate([_inside(t) for t in program.tensors])  # of each block, those that travel
        self._narrow = np.repeat([t.bits <= 8 for t in program.tensors], [t.blocks for t in program.tensors])
        self.blocks = len(self._lanes)
        accumulators = sum(1 + stage.closes for stage in program.stages)
        self.gradient_bytes = int(self._lanes.sum()) * 2 + self.blocks + 4 * accumulators

    def pack(self, weights: Rows) -> bytes:
        """The exponents, then mantissas of 1 or 2 bytes, block after block."""
        two = weights.mantissas.astype("<i2").view(np.uint8).reshape(self.blocks, LANES, 2)
        travels = np.stack([self._lanes, self._lanes & ~self._narrow[:, None]], axis=-1)
        return weights.exponents.tobytes() + bytes(two[travels])

    def unpack(self, packed: bytes) -> Gradients:
        """Mantissas all of 2 bytes, then the exponents, then the peaks."""
        elements = int(self._lanes.sum())
        ends = 2 * elements, 2 * elements + self.blocks
        mantissas = np.zeros((self.blocks, LANES), np.int16)
        mantissas[self._lanes] = np.frombuffer(packed[: ends[0]], "<i2")
        exponents = np.frombuffer(packed[ends[0] : ends[1]], np.int8).copy()
        return Gradients(Rows(mantissas, exponents), np.frombuffer(packed[ends[1] :], "<u4").astype(np.uint32))


def _inside(tensor: Tensor) -> NDArray[np.bool_]:
    """Which of the lanes (blocks, 16) belong to the matrix, and not to its padding."""
    high, wide = blocks_of(tensor.rows), blocks_of(tensor.cols)
    inside = np.zeros((high * BLOCK, wide * BLOCK), bool)
    inside[: tensor.rows, : tensor.cols] = True
    return inside.reshape(high, BLOCK, wide, BLOCK).swapaxes(1, 2).reshape(-1, LANES)


def _trim(mantissas: NDArray[np.int16], columns: int) -> NDArray[np.int16]:
    """(..., B, 16) to (..., 4, columns)."""
    *lead, blocks, _ = mantissas.shape
    tiles = mantissas.reshape(*lead, blocks, BLOCK, BLOCK).swapaxes(-3, -2)
    trimmed: NDArray[np.int16] = tiles.reshape(*lead, BLOCK, blocks * BLOCK)[..., :columns]
    return trimmed


def _join(mantissas: NDArray[np.int16], exponents: NDArray[np.int8]) -> Bytes:
    """Last axes side by side, as bytes."""
    return np.concatenate([np.ascontiguousarray(mantissas, "<i2").view(np.uint8), exponents.view(np.uint8)], axis=-1)
