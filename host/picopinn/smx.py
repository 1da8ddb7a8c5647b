"""SMX(b): 4x4 blocks of b-bit mantissas that share one exponent (docs/spec.md, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import UsageError

BLOCK = 4
ZERO_EXPONENT = -128
MIN_EXPONENT, MAX_EXPONENT = -127, 127
MIN_BITS, MAX_BITS = 4, 16

Floats = NDArray[np.float64]


def largest(bits: ArrayLike) -> Any:
    """Largest mantissa of a width: 2^(bits-1) - 1."""
    return (1 << (np.asarray(bits, dtype=np.int64) - 1)) - 1


def blocks_of(size: int) -> int:
    """Blocks needed for ``size`` rows or columns."""
    return -(-size // BLOCK)


def to_blocks(matrix: NDArray[Any]) -> NDArray[Any]:
    """Cut a (rows, cols) matrix into (block rows, block cols, 4, 4), zero-padded at the edges."""
    rows, cols = matrix.shape
    padded = np.zeros((blocks_of(rows) * BLOCK, blocks_of(cols) * BLOCK), matrix.dtype)
    padded[:rows, :cols] = matrix
    tiles = padded.reshape(blocks_of(rows), BLOCK, blocks_of(cols), BLOCK)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3))


def from_blocks(blocks: NDArray[Any], rows: int, cols: int) -> NDArray[Any]:
    """Inverse of :func:`to_blocks`."""
    high, wide = blocks.shape[:2]
    whole = blocks.transpose(0, 2, 1, 3).reshape(high * BLOCK, wide * BLOCK)
    return np.ascontiguousarray(whole[:rows, :cols])


def encode_blocks(values: Floats, bits: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """Encode (..., n) reals, one block along the last axis, to mantissas and exponents (spec 2.1).

    ``bits`` is one width or one a block (shape ``values.shape[:-1]``).
    """
    width = np.asarray(bits, dtype=np.int64)
    size = np.abs(values)
    _, power = np.frexp(size.max(axis=-1))  # largest = f * 2^power with 0.5 <= f < 1
    exponent = np.clip(power - 1 - (width - 2), MIN_EXPONENT, MAX_EXPONENT)
    size *= np.ldexp(1.0, -exponent)[..., None]  # exact
    rounded = np.floor(size)
    rounded += size - rounded >= 0.5  # floor(size + 0.5) would round the number just below a half up
    np.minimum(rounded, largest(width)[..., None], out=rounded)
    exponents = np.where(rounded.any(axis=-1), exponent, ZERO_EXPONENT).astype(np.int8)
    return np.copysign(rounded, values, out=rounded).astype(np.int16), exponents


def decode_blocks(mantissas: NDArray[Any], exponents: NDArray[Any]) -> Floats:
    """The exact values of block-scaled integers: (..., n) and (...,) to (..., n) float64."""
    values: Floats = mantissas * np.ldexp(1.0, exponents.astype(np.int64))[..., None]
    return values


@dataclass(frozen=True, eq=False)
class SMX:
    """A matrix in SMX(bits).

    Attributes:
        blocks: mantissas, int16, (block rows, block cols, 4, 4).
        exponents: int8, (block rows, block cols); -128 marks a zero block.
        shape: (rows, cols) before padding.
        bits: mantissa width, 4 to 16.
    """

    blocks: NDArray[np.int16]
    exponents: NDArray[np.int8]
    shape: tuple[int, int]
    bits: int

    @property
    def mantissas(self) -> NDArray[np.int16]:
        """Mantissas as a (rows, cols) matrix."""
        return from_blocks(self.blocks, *self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes a device needs for it: int8 or int16 mantissas and one exponent a block."""
        return self.blocks.size * (1 if self.bits <= 8 else 2) + self.exponents.size

    def decode(self) -> Floats:
        """The exact values, float64 (rows, cols)."""
        flat = self.blocks.reshape(*self.exponents.shape, BLOCK * BLOCK)
        return from_blocks(decode_blocks(flat, self.exponents).reshape(self.blocks.shape), *self.shape)


def check_bits(bits: int, what: str = "width") -> int:
    """Return ``bits`` if 4..16, else raise UsageError."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise UsageError(f"{what} {bits} is out of range: SMX mantissas have {MIN_BITS} to {MAX_BITS} bits")
    return bits


def encode(array: ArrayLike, bits: int) -> SMX:
    """Encode a matrix of finite reals to SMX(bits), nearest, ties away from zero.

    Raises:
        UsageError: not a matrix, a width outside 4..16, or a value that is not finite.
    """
    check_bits(bits)
    values = np.asarray(array, dtype=np.float64)
    if values.ndim != 2:
        raise UsageError(f"SMX encodes matrices, got an array of shape {values.shape}: reshape it first")
    if not np.isfinite(values).all():
        row, col = np.argwhere(~np.isfinite(values))[0]
        raise UsageError(f"SMX encodes finite values, found {values[row, col]} at row {row}, column {col}")
    tiles = to_blocks(values)
    mantissas, exponents = encode_blocks(tiles.reshape(*tiles.shape[:2], BLOCK * BLOCK), bits)
    return SMX(mantissas.reshape(tiles.shape), exponents, (values.shape[0], values.shape[1]), bits)


def snap(array: ArrayLike, bits: int) -> Floats:
    """The nearest values that SMX(bits) holds exactly, for a matrix as it stands."""
    return encode(array, bits).decode()
