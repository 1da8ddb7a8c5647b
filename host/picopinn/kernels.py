"""The C kernels (kernels_c/include/ppn/ppn.h is their manual), through cffi."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from ppn import messages

from .errors import PicopinnError, UsageError
from .network import ACTIVATIONS, MAX_INNER, MODES, Activation, Program
from .smx import BLOCK, SMX, Floats, blocks_of, check_bits, decode_blocks, from_blocks

try:
    from ._kernels import ffi, lib
except ImportError as error:  # a source tree that was never built
    raise PicopinnError(f"the C kernels are not built ({error}): run `pip install .` in the project") from error

__all__ = [
    "LANES",
    "NUMBERS",
    "VARIANTS",
    "Packed",
    "Pattern",
    "Plan",
    "Product",
    "activate",
    "adam",
    "adam_step",
    "board_sizes",
    "crew",
    "device_bytes",
    "encode_integers",
    "ffi",
    "first_column",
    "kernels",
    "lib",
    "matmul",
    "pointer",
    "variants",
]

VARIANTS = ("portable", "neon", "avx2", "avx512")
NUMBERS = int(lib.PPN_VERSION)  # version of docs/spec.md that the kernels follow
LANES = BLOCK * BLOCK
_LINE = 64  # bytes of a cache
_STATUS = {
    lib.PPN_BAD_WIDTH: "a mantissa width is outside 4..16",
    lib.PPN_BAD_SHAPE: "stages do not fit each other, or a size is 0 or too large",
    lib.PPN_BAD_CHAIN: "a half-chain does not multiply out to its stage matrix",
    lib.PPN_BAD_ENUM: "an activation or mode is unknown, or there is no stage, or more than 1024",
    lib.PPN_TOO_LARGE: "more than 4095 directions, or a memory region of 2 GiB",
}


def variants() -> list[str]:
    """The instruction-set variants that this machine runs."""
    return [name for number, name in enumerate(VARIANTS) if lib.ppn_variant_kernels(number) != ffi.NULL]


@cache
def kernels(variant: str | None = None) -> Any:
    """The function table of a variant; by default the fastest, or the one PICOPINN_VARIANT names.

    Raises:
        UsageError: no such variant here.
    """
    name = variant or os.environ.get("PICOPINN_VARIANT") or variants()[-1]
    if name not in variants():
        way_out = "" if variant else ", or unset PICOPINN_VARIANT"
        raise UsageError(f"kernel variant {name!r} does not run here: choose {' or '.join(variants())}{way_out}")
    return lib.ppn_variant_kernels(VARIANTS.index(name))


def crew(threads: int) -> Any:
    """A ``picopinn_crew`` (host/native/crew.h) of so many threads, the caller's being one.

    Raises:
        PicopinnError: the system gives no more threads.
    """
    opened = lib.picopinn_crew_open(threads)
    if opened == ffi.NULL:
        raise PicopinnError(f"the system gives no {threads} threads: ask for fewer")
    return ffi.gc(opened, lib.picopinn_crew_close)


pointer = ffi.from_buffer  # (kind, array): a C pointer to a contiguous array, which it keeps alive


@dataclass(frozen=True, eq=False)
class Product:
    """A block-scaled int32 matrix: blocks (R, C, 4, 4), exponents (R, C) int16, shape (rows, cols)."""

    blocks: NDArray[np.int32]
    exponents: NDArray[np.int16]
    shape: tuple[int, int]

    def decode(self) -> Floats:
        """The exact values, float64 (rows, cols)."""
        flat = self.blocks.reshape(*self.exponents.shape, LANES)
        return from_blocks(decode_blocks(flat, self.exponents).reshape(self.blocks.shape), *self.shape)

    def encode(self, bits: int) -> SMX:
        """Round to SMX(bits) in C (spec 2.2); UsageError for a width outside 4..16."""
        check_bits(bits)
        mantissas = np.empty(self.blocks.shape, np.int16)
        exponents = np.empty(self.exponents.shape, np.int8)
        encode_integers(self.blocks, self.exponents, bits, mantissas, exponents)
        return SMX(mantissas, exponents, self.shape, bits)


def _lines(size: int) -> NDArray[np.uint8]:
    """So many bytes from the start of a cache line on, so that no vector of a block lies in two."""
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size]


class Packed:
    """op(b) as the right side of many products: arranged once, as weights are once a load.

    Args:
        threads: that share each product's rows.

    Attributes:
        shape: of op(b).

    Raises:
        UsageError: the inner size exceeds 4096.
        PicopinnError: the system gives no more threads.
    """

    def __init__(self, b: SMX, *, transpose_b: bool = False, threads: int = 1, variant: str | None = None) -> None:
        self.shape = b.shape[::-1] if transpose_b else b.shape
        if self.shape[0] > MAX_INNER:
            raise UsageError(f"matmul: the inner size is at most {MAX_INNER}, got {self.shape[0]}")
        self._kernels, self._matrix, self._bits = kernels(variant), _matrix(b, transpose_b), b.bits
        self._blocks = pointer("uint8_t[]", _lines(b.exponents.size * lib.PPN_PACKED_BYTES))
        _refuse(self._kernels.pack(self._matrix, self._blocks))
        inner, cols = map(blocks_of, self.shape)
        self._packed = ffi.new("ppn_factor *", [self._blocks, inner, cols, b.bits])
        self._crew = crew(threads)

    def times(self, a: SMX, transpose_a: bool, out: Product) -> None:
        """out = op(a) @ op(b), sizes as they must be."""
        places = pointer("int32_t[]", out.blocks), pointer("int16_t[]", out.exponents)
        left = _matrix(a, transpose_a)
        if a.bits + self._bits <= lib.PPN_PACKED_BITS:
            _refuse(lib.picopinn_times_packed(self._crew, self._kernels, left, self._packed, *places))
        else:
            _refuse(self._kernels.matmul(left, self._matrix, *places))


class Pattern:
    """Which element of a float64 array travels in which lane of which SMX block, and at what widths.

    Args:
        index: (..., 16), elements in C order; -1 stands for a zero.
        widths: of mantissas, one a block (...).
    """

    def __init__(self, index: NDArray[Any], widths: ArrayLike) -> None:
        self._index = np.ascontiguousarray(index, np.int32)
        self._widths = np.array(np.broadcast_to(np.asarray(widths, np.uint8), index.shape[:-1]))
        self._lanes, self._bits = pointer("int32_t[]", self._index), pointer("uint8_t[]", self._widths)

    def gather(self, reals: Floats, held: Floats | None = None) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
        """:func:`picopinn.smx.encode_blocks` in C of finite numbers: mantissas (..., 16) and exponents (...).

        ``held``, an array like ``reals``, is filled with what :meth:`scatter` would make of them.
        """
        mantissas, exponents = np.empty(self._index.shape, np.int16), np.empty(self._widths.shape, np.int8)
        lib.picopinn_gather(
            self._widths.size,
            pointer("double[]", reals),
            self._lanes,
            self._bits,
            pointer("int16_t[]", mantissas),
            pointer("int8_t[]", exponents),
            ffi.NULL if held is None else pointer("double[]", held),
        )
        return mantissas, exponents

    def scatter(self, mantissas: NDArray[np.int16], exponents: NDArray[np.int8], reals: Floats) -> Floats:
        """Fill ``reals`` with the elements that blocks hold; answers it."""
        lib.picopinn_scatter(
            self._widths.size,
            pointer("int16_t[]", mantissas),
            pointer("int8_t[]", exponents),
            self._lanes,
            pointer("double[]", reals),
        )
        return reals


def adam_step(constants: Mapping[str, float]) -> Any:
    """``picopinn_adam_step`` (host/native/adam.h) with these of its fields set."""
    return ffi.new("picopinn_adam_step *", constants)


def adam(gradient: Floats, step: Any, mean: Floats, square: Floats, master: Floats) -> None:
    """One step of Adam in place, by the constants of an :func:`adam_step`."""
    means, squares, masters = pointer("double[]", mean), pointer("double[]", square), pointer("double[]", master)
    lib.picopinn_adam(gradient.size, pointer("double[]", gradient), step, means, squares, masters)


def first_column(mantissas: NDArray[np.int32], exponents: NDArray[np.int16]) -> Floats:
    """Of rows (n, S, B, 16), (n, S, B) of four points each, the first column as :func:`picopinn.smx.decode_blocks`
    gives it: (4 n, S)."""
    count, streams, blocks = exponents.shape
    reals = np.empty((BLOCK * count, streams))
    values, powers = pointer("int32_t[]", mantissas), pointer("int16_t[]", exponents)
    lib.picopinn_column(count, streams, blocks, values, powers, pointer("double[]", reals))
    return reals


def encode_integers(
    x: NDArray[np.int32],
    x_exponents: NDArray[np.int16],
    bits: int,
    mantissas: NDArray[np.int16],
    exponents: NDArray[np.int8],
    variant: str | None = None,
) -> int:
    """Encode block-scaled int32 to SMX(bits), nearest, into the given arrays; answers the flags."""
    return int(
        kernels(variant).encode(
            x_exponents.size,
            pointer("int32_t[]", x),
            pointer("int16_t[]", x_exponents),
            bits,
            pointer("int16_t[]", mantissas),
            pointer("int8_t[]", exponents),
        )
    )


def _matrix(m: SMX, transposed: bool) -> Any:
    """A ``ppn_matrix`` that borrows the arrays of ``m``."""
    rows, cols = m.exponents.shape
    mantissas, exponents = pointer("int16_t[]", m.blocks), pointer("int8_t[]", m.exponents)
    return ffi.new("ppn_matrix *", [mantissas, exponents, rows, cols, m.bits, int(transposed)])


def matmul(
    a: SMX,
    b: SMX | Packed,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    out: Product | None = None,
    variant: str | None = None,
) -> Product:
    """op(a) @ op(b) in C (spec 3), from the same blocks whether transposed or not.

    ``b`` may be :class:`Packed`, which then knows whether it is transposed and the variant. ``out``, an earlier product
    of this shape, is overwritten and answered.

    Raises:
        UsageError: the inner sizes differ or exceed 4096, or ``out`` has another shape.
    """
    right = b if isinstance(b, Packed) else Packed(b, transpose_b=transpose_b, variant=variant)
    (rows, inner), (other, cols) = a.shape[::-1] if transpose_a else a.shape, right.shape
    if inner != other:
        raise UsageError(f"matmul: inner sizes differ, {rows} x {inner} times {other} x {cols}: transpose one")
    if out is None:
        high, wide = blocks_of(rows), blocks_of(cols)
        blocks = _lines(4 * LANES * high * wide).view(np.int32).reshape(high, wide, BLOCK, BLOCK)
        out = Product(blocks, np.empty((high, wide), np.int16), (rows, cols))
    elif out.shape != (rows, cols):
        raise UsageError(f"matmul: the product is {rows} x {cols}, out is {out.shape[0]} x {out.shape[1]}")
    right.times(a, transpose_a, out)
    return out


def activate(z: SMX, activation: Activation, variant: str | None = None) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """phi (15 fraction bits) and phi' (14) of an SMX(16) matrix, as blocks (spec 5)."""
    value, slope = np.empty_like(z.blocks), np.empty_like(z.blocks)
    kernels(variant).activate(
        z.exponents.size,
        pointer("int16_t[]", z.blocks),
        pointer("int8_t[]", z.exponents),
        ACTIVATIONS.index(activation),
        pointer("int16_t[]", value),
        pointer("int16_t[]", slope),
    )
    return value, slope


class Plan:
    """A Program as the C structures, checked and measured for up to ``directions`` directions.

    Attributes:
        net: ``ppn_network *``.
        sizes: ``ppn_sizes *``: bytes of every region.
    """

    def __init__(self, program: Program, directions: int, variant: str | None = None) -> None:
        self.kernels = kernels(variant)
        self._stages = ffi.new("ppn_stage[]", [_stage(s) for s in program.stages])
        self._chains = ffi.new("ppn_chain[]", [_chain(c) for c in program.chains] or 1)
        self._places = ffi.new("ppn_place[]", len(program.stages))
        bits = program.precision
        self.net = ffi.new(
            "ppn_network *",
            {
                "stages": self._stages,
                "chains": self._chains,
                "places": self._places,
                "stage_count": len(program.stages),
                "chain_count": len(program.chains),
                "activation": ACTIVATIONS.index(program.activation),
                "mode": MODES.index(program.mode),
                "bits_weights": bits.weights,
                "bits_activations": bits.activations,
                "bits_base": bits.base,
                "bits_gradients": bits.gradients,
            },
        )
        self.sizes = ffi.new("ppn_sizes *")
        _refuse(self.kernels.plan(self.net, directions, self.sizes))


def _stage(stage: Any) -> dict[str, int]:
    chain = -1 if stage.chain is None else stage.chain
    return {
        "rows": stage.rows,
        "cols": stage.cols,
        "panels": stage.panels,
        "expand": int(stage.expand),
        "closes": int(stage.closes),
        "chain": chain,
    }


def _chain(chain: Any) -> dict[str, Any]:
    return {"modes": len(chain.modes), "mode": list(chain.modes), "rank": list(chain.ranks)}


def _refuse(status: int) -> None:
    if status != lib.PPN_OK:
        raise UsageError(f"the kernels refuse this: {_STATUS[status]}")


def device_bytes(program: Program, directions: int) -> dict[str, int]:
    """Bytes a device needs for one microbatch of four points, region by region, and in ``total``."""
    sizes = Plan(program, directions, "portable").sizes
    regions = {name: int(getattr(sizes, name)) for name in ("weights", "gradients", "tape", "scratch")}
    return {**regions, "total": sum(regions.values())}


def board_sizes(program: bytes) -> tuple[int, ...]:
    """Bytes of each of ``messages.REGIONS`` on a board that is configured with a program (firmware/natmod/device.h).

    Raises:
        UsageError: no device takes it.
    """
    needed = int(lib.ppn_device_bytes(program, len(program)))
    sizes = ffi.new("ppn_device_sizes *")
    status = needed
    if needed > 0:
        room = ffi.new("uint64_t[]", -(-needed // 8))  # aligned
        status = int(lib.ppn_device_open(ffi.cast("ppn_device *", room), program, len(program), sizes))
    if status:
        raise UsageError(f"the kernels refuse this: {messages.reason(status)}")
    return tuple(int(getattr(sizes, name)) for name in messages.REGIONS)
