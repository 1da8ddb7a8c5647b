"""The device on this computer: the C kernels called directly, on as many threads as asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..kernels import LANES, Plan, crew, ffi, kernels, lib, pointer
from ..network import Program, stream_count
from .base import Gradients, Rows, Scaling, Values, pairs

Bytes = NDArray[np.uint8]


@dataclass(eq=False)
class _Batch:
    """Microbatches as the kernels see them, which point to the other fields.

    ``tapes`` are those of a forward that a backward follows, or there to be overwritten.
    """

    points: Rows
    directions: Rows | None
    rows: Rows | None
    tapes: Bytes
    streams: int
    c: Any


class LocalDevice:
    """Integer kernels through cffi; see :class:`picopinn.device.base.Device`.

    Microbatches are dealt to threads in equal runs; integer sums make the result the same for any number of them.

    Args:
        threads: at least 1.
        variant: instruction set of the kernels (``picopinn.kernels.variants``), the fastest by default.

    Raises:
        UsageError: the variant does not run here.
        PicopinnError: the system gives no more threads.
    """

    def __init__(self, threads: int = 1, variant: str | None = None) -> None:
        kernels(variant)  # refused now, not once a run has its directory
        self._threads, self._variant = threads, variant
        self._flags = 0
        self._crew = crew(threads)

    def configure(self, program: Program, directions: int) -> None:
        self._program, self._directions, self._flags = program, directions, 0
        self._plan = plan = Plan(program, directions, self._variant)
        self._sizes = sizes = plan.sizes
        self._weights, self._merged = _Region(sizes.weights), _Region(sizes.gradients)
        self._lanes = [(_Region(sizes.scratch), _Region(sizes.gradients)) for _ in range(self._threads)]
        self._c_lanes = ffi.new("picopinn_lane[]", [(scratch.c, sums.c) for scratch, sums in self._lanes])
        given = [self._crew, plan.kernels, plan.net, sizes[0], self._weights.c, self._merged.c, self._c_lanes]
        self._c = ffi.new("picopinn_device *", given)
        self._kept: list[_Batch] = []
        self._spare: list[Bytes] = []

    def load(self, weights: Rows) -> None:
        _check_rows(weights, (self._sizes.parameter_blocks,), "weights")
        self._spare += [kept.tapes for kept in self._kept]
        self._kept.clear()
        self._flags |= lib.picopinn_load(self._c, *_pointers(weights))

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        return self._forward(self._batch(points, directions, keep), keep)

    def _forward(self, batch: _Batch, keep: bool) -> Values:
        shape = len(batch.points.exponents), batch.streams, self._sizes.out_blocks
        out = Values(np.empty((*shape, LANES), np.int32), np.empty(shape, np.int16))
        mantissas, exponents = pointer("int32_t[]", out.mantissas), pointer("int16_t[]", out.exponents)
        self._flags |= lib.picopinn_forward(self._c, batch.c, mantissas, exponents)
        if keep:
            self._kept.append(batch)
        else:
            self._spare.append(batch.tapes)
        return out

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        self._seed, self._step = seed, step
        _check(scaling.exponents, np.int16, (self._sizes.accumulators,), "gradient exponents")
        lib.picopinn_begin(self._c, pointer("int16_t[]", scaling.exponents), scaling.limit)

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        batch = self._kept_forward(points, directions)
        _check_rows(cotangents, (len(points.exponents), batch.streams, self._sizes.out_blocks), "cotangents")
        counter = self._seed, self._step, first
        self._flags |= lib.picopinn_backward(self._c, batch.c, *_pointers(cotangents), counter)

    def gradients(self) -> Gradients:
        blocks = self._sizes.parameter_blocks
        values = Rows(np.empty((blocks, LANES), np.int16), np.empty(blocks, np.int8))
        peaks = np.empty(self._sizes.accumulators, np.uint32)
        self._flags |= lib.picopinn_gradients(self._c, *_pointers(values), pointer("uint32_t[]", peaks))
        return Gradients(values, peaks)

    def flags(self) -> int:
        flags, self._flags = self._flags, 0
        return flags

    # ---- batches and tapes

    def _along(self, points: Rows, directions: Rows | None) -> int:
        """Directions of a microbatch, having checked that both arrays are what the kernels will read."""
        count, rows = points.exponents.shape[:2]
        naive, blocks = self._program.mode == "naive", self._sizes.in_blocks
        along = (rows - 1) // 2 if naive else 0 if directions is None else len(directions.exponents)
        if along > self._directions:
            raise UsageError(f"{along} directions do not fit a device configured for {self._directions}")
        _check_rows(points, (count, stream_count("naive", along) if naive else 1, blocks), "points")
        if directions is not None and not naive:
            _check_rows(directions, (along, blocks), "directions")
        return along

    def _direction_rows(self, directions: Rows | None) -> Rows | None:
        """The rows that ppn_batch wants: for difference d_1, -d_1, d_2, ..., else the directions themselves."""
        if directions is None or self._program.mode != "difference":
            return directions
        return pairs(directions)

    def _batch(self, points: Rows, directions: Rows | None, keep: bool) -> _Batch:
        """The microbatches, and room for their tapes if they are to be kept, else for those worked on together."""
        number, rows = self._along(points, directions), self._direction_rows(directions)
        count = len(points.exponents)
        tapes = self._tapes(count if keep else self._threads * lib.PICOPINN_TOGETHER)
        along = (ffi.NULL, ffi.NULL) if rows is None else _pointers(rows)
        bits, step = self._program.precision.inputs, self._sizes.tape if keep else 0
        given = [count, number, bits, *_pointers(points), *along, pointer("uint8_t[]", tapes), step]
        streams = stream_count(self._program.mode, number)
        return _Batch(points, directions, rows, tapes, streams, ffi.new("ppn_batch *", given))

    def _tapes(self, count: int) -> Bytes:
        """Room for ``count`` tapes, from an earlier step where there is some."""
        size = max(1, count * self._sizes.tape)
        for spare in self._spare:
            if spare.size == size:
                self._spare = [other for other in self._spare if other is not spare]
                return spare
        return np.empty(size, np.uint8)

    def _kept_forward(self, points: Rows, directions: Rows | None) -> _Batch:
        """The forward at these very points, run again if its tapes are gone."""
        for kept in self._kept:
            if kept.points is points and kept.directions is directions:
                return kept
        self._forward(batch := self._batch(points, directions, keep=True), keep=True)
        return batch


def _check(array: NDArray[Any], dtype: type, shape: tuple[int, ...], what: str) -> None:
    """The kernels read memory as it stands: refuse any that is not of the type and shape they expect."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise UsageError(f"{what} must be {np.dtype(dtype)} {shape} in C order, got {array.dtype} {array.shape}")


def _check_rows(rows: Rows, shape: tuple[int, ...], what: str) -> None:
    """Both arrays of so many blocks."""
    _check(rows.mantissas, np.int16, (*shape, LANES), what)
    _check(rows.exponents, np.int8, shape, f"exponents of {what}")


def _pointers(rows: Rows) -> tuple[Any, Any]:
    """Both arrays for C."""
    return pointer("int16_t[]", rows.mantissas), pointer("int8_t[]", rows.exponents)


class _Region:
    """Memory of the kernels, as ``bytes`` and as a C pointer."""

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(max(size, 1), np.uint8)
        self.c = pointer("uint8_t[]", self.bytes)
