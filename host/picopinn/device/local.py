"""The device on this computer: the C kernels called directly, on as many threads as asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..kernels import LANES, Plan, ffi, pointer
from ..network import Program
from .base import Gradients, Rows, Scaling, Values

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Kept:
    """A forward whose tapes are still there."""

    points: Rows
    directions: Rows | None
    tapes: Bytes


class LocalDevice:
    """Integer kernels through cffi; see :class:`picopinn.device.base.Device`.

    Microbatches are dealt to threads in equal runs; integer sums make the result the same for any number of them.

    Args:
        threads: at least 1.
        variant: instruction set of the kernels (``picopinn.kernels.variants``), the fastest by default.
    """

    def __init__(self, threads: int = 1, variant: str | None = None) -> None:
        self._threads, self._variant = threads, variant
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None  # beside the caller's own
        self._flags = 0

    def configure(self, program: Program, directions: int) -> None:
        self._program, self._directions, self._flags = program, directions, 0
        self._plan = Plan(program, directions, self._variant)
        sizes = self._plan.sizes
        self._weights = np.empty(sizes.weights, np.uint8)
        self._scratch = [np.empty(sizes.scratch, np.uint8) for _ in range(self._threads)]
        self._sums = [np.zeros(sizes.gradients, np.uint8) for _ in range(self._threads)]
        self._own_tapes = [np.empty(sizes.tape, np.uint8) for _ in range(self._threads)]
        self._kept: list[_Kept] = []
        self._spare: list[Bytes] = []

    def load(self, weights: Rows) -> None:
        blocks = self._plan.sizes.parameter_blocks
        _check_rows(weights, (blocks,), "weights")
        self._spare += [kept.tapes for kept in self._kept]
        self._kept.clear()
        self._flags |= self._plan.kernels.load(
            self._plan.net,
            pointer("uint8_t[]", self._weights),
            pointer("uint8_t[]", self._scratch[0]),
            pointer("int16_t[]", weights.mantissas),
            pointer("int8_t[]", weights.exponents),
        )

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        count, streams = len(points.exponents), self._streams(points, directions)
        blocks = self._plan.sizes.out_blocks
        out = Values(np.empty((count, streams, blocks, LANES), np.int32), np.empty((count, streams, blocks), np.int16))
        rows = self._direction_rows(directions)
        tapes = self._tapes(count) if keep else None

        def part(thread: int, start: int, stop: int) -> int:
            batch = self._batch(thread, start, stop, points, rows, streams, tapes)
            mantissas = pointer("int32_t[]", out.mantissas[start:stop])
            exponents = pointer("int16_t[]", out.exponents[start:stop])
            weights = pointer("uint8_t[]", self._weights)
            scratch = pointer("uint8_t[]", self._scratch[thread])
            return int(self._plan.kernels.forward(self._plan.net, weights, scratch, batch.c, mantissas, exponents))

        self._deal(count, part)
        if tapes is not None:
            self._kept.append(_Kept(points, directions, tapes))
        return out

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        self._seed, self._step = seed, step
        _check(scaling.exponents, np.int16, (self._plan.sizes.accumulators,), "gradient exponents")
        exponents = pointer("int16_t[]", scaling.exponents)
        for sums in self._sums:
            self._plan.kernels.begin(self._plan.net, pointer("uint8_t[]", sums), exponents, scaling.limit)

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        streams = self._streams(points, directions)
        out_blocks = self._plan.sizes.out_blocks
        _check_rows(cotangents, (len(points.exponents), streams, out_blocks), "cotangents")
        tapes = self._tapes_of(points, directions)
        rows = self._direction_rows(directions)

        def part(thread: int, start: int, stop: int) -> int:
            batch = self._batch(thread, start, stop, points, rows, streams, tapes)
            counter = ffi.new("ppn_counter *", [self._seed, self._step, first + start])
            return int(
                self._plan.kernels.backward(
                    self._plan.net,
                    pointer("uint8_t[]", self._weights),
                    pointer("uint8_t[]", self._sums[thread]),
                    pointer("uint8_t[]", self._scratch[thread]),
                    batch.c,
                    pointer("int16_t[]", cotangents.mantissas[start:stop]),
                    pointer("int8_t[]", cotangents.exponents[start:stop]),
                    counter[0],
                )
            )

        self._deal(len(points.exponents), part)

    def gradients(self) -> Gradients:
        sizes, plan = self._plan.sizes, self._plan
        sums = self._sums[0].copy()  # so that asking again answers the same
        for other in self._sums[1:]:
            plan.kernels.merge(plan.net, pointer("uint8_t[]", sums), pointer("uint8_t[]", other))
        blocks = sizes.parameter_blocks
        out = Gradients(
            Rows(np.empty((blocks, LANES), np.int16), np.empty(blocks, np.int8)),
            np.empty(sizes.accumulators, np.uint32),
        )
        self._flags |= plan.kernels.gradients(
            plan.net,
            pointer("uint8_t[]", self._weights),
            pointer("uint8_t[]", sums),
            pointer("uint8_t[]", self._scratch[0]),
            pointer("int16_t[]", out.values.mantissas),
            pointer("int8_t[]", out.values.exponents),
            pointer("uint32_t[]", out.peaks),
        )
        return out

    def flags(self) -> int:
        flags, self._flags = self._flags, 0
        return flags

    # ---- batches, tapes and threads

    def _streams(self, points: Rows, directions: Rows | None) -> int:
        """Streams of a microbatch, having checked that both arrays are what the kernels will read."""
        count, rows = points.exponents.shape[:2]
        naive, blocks = self._program.mode == "naive", self._plan.sizes.in_blocks
        streams = rows if naive else 1 if directions is None else 1 + 2 * len(directions.exponents)
        if streams > 1 + 2 * self._directions or streams % 2 == 0:
            raise UsageError(f"{streams} streams do not fit a device configured for {self._directions} directions")
        _check_rows(points, (count, streams if naive else 1, blocks), "points")
        if directions is not None and not naive:
            _check_rows(directions, (len(directions.exponents), blocks), "directions")
        return streams

    def _direction_rows(self, directions: Rows | None) -> Rows | None:
        """The rows that ppn_batch wants: for difference d_1, -d_1, d_2, ..., else the directions themselves."""
        if directions is None or self._program.mode != "difference":
            return directions
        pairs = np.stack([directions.mantissas, -directions.mantissas], axis=1)
        mantissas = np.ascontiguousarray(pairs.reshape(-1, *directions.mantissas.shape[1:]))
        return Rows(mantissas, np.repeat(directions.exponents, 2, axis=0))

    def _batch(
        self, thread: int, start: int, stop: int, points: Rows, rows: Rows | None, streams: int, tapes: Bytes | None
    ) -> _Batch:
        tape, step = self._own_tapes[thread], 0
        if tapes is not None:
            step = self._plan.sizes.tape
            tape = tapes[start * step :]
        return _Batch(points, rows, start, stop, (streams - 1) // 2, self._program.precision.inputs, tape, step)

    def _tapes(self, count: int) -> Bytes:
        """Room for ``count`` tapes, from an earlier step where there is some."""
        size = max(1, count * self._plan.sizes.tape)
        for spare in self._spare:
            if spare.size == size:
                self._spare = [other for other in self._spare if other is not spare]
                return spare
        return np.empty(size, np.uint8)

    def _tapes_of(self, points: Rows, directions: Rows | None) -> Bytes:
        """The tapes of a forward at these very points, run again if they are gone."""
        for kept in self._kept:
            if kept.points is points and kept.directions is directions:
                return kept.tapes
        self.forward(points, directions, keep=True)
        return self._kept[-1].tapes

    def _deal(self, count: int, part: Callable[[int, int, int], int]) -> None:
        """Run ``part(thread, start, stop)`` over all microbatches."""
        edges = [count * k // self._threads for k in range(self._threads + 1)]
        jobs = [(k, edges[k], edges[k + 1]) for k in range(self._threads) if edges[k] < edges[k + 1]]
        others = [self._pool.submit(part, *job) for job in jobs[1:]] if self._pool else []
        for job in jobs[:1]:  # none for an empty batch
            self._flags |= part(*job)
        for other in others:
            self._flags |= other.result()


def _check(array: NDArray[Any], dtype: type, shape: tuple[int, ...], what: str) -> None:
    """The kernels read memory as it stands: refuse any that is not of the type and shape they expect."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise UsageError(f"{what} must be {np.dtype(dtype)} {shape} in C order, got {array.dtype} {array.shape}")


def _check_rows(rows: Rows, shape: tuple[int, ...], what: str) -> None:
    """Both arrays of so many blocks."""
    _check(rows.mantissas, np.int16, (*shape, LANES), what)
    _check(rows.exponents, np.int8, shape, f"exponents of {what}")


class _Batch:
    """A ``ppn_batch`` (``c``) and the arrays it points to."""

    def __init__(
        self,
        points: Rows,
        rows: Rows | None,
        start: int,
        stop: int,
        directions: int,
        bits: int,
        tape: Bytes,
        tape_step: int,
    ) -> None:
        borrowed: dict[str, Any] = {
            "points": pointer("int16_t[]", points.mantissas[start:stop]),
            "point_exps": pointer("int8_t[]", points.exponents[start:stop]),
            "tape": pointer("uint8_t[]", tape),
        }
        if rows is not None:
            borrowed["rows"] = pointer("int16_t[]", rows.mantissas)
            borrowed["row_exps"] = pointer("int8_t[]", rows.exponents)
        self._borrowed = borrowed
        self.c = ffi.new(
            "ppn_batch *",
            {"count": stop - start, "directions": directions, "bits_inputs": bits, "tape_step": tape_step, **borrowed},
        )
