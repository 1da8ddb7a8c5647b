"""The device on this computer: the C kernels called directly, on as many threads as asked for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..kernels import LANES, Plan, ffi, pointer
from ..network import Program
from .base import Gradients, Rows, Scaling, Values, pairs

_ALL = ffi.new("ppn_share *", [0, 1])[0]

Bytes = NDArray[np.uint8]
Call = Callable[[], int]  # a C function with its arguments; answers flags


@dataclass(frozen=True, eq=False)
class _Dealt:
    """Microbatches as the kernels see them: each lane's own batch, and the number of its first microbatch.

    Lives as long as what its batches point to; ``tapes`` are those of a forward that a backward may follow.
    """

    points: Rows
    directions: Rows | None
    rows: Rows | None
    tapes: Bytes | None
    streams: int
    shares: list[tuple[_Lane, Any, int]]


class LocalDevice:
    """Integer kernels through cffi; see :class:`picopinn.device.base.Device`.

    Microbatches are dealt to threads in equal runs; integer sums make the result the same for any number of them.

    Args:
        threads: at least 1.
        variant: instruction set of the kernels (``picopinn.kernels.variants``), the fastest by default.
    """

    def __init__(self, threads: int = 1, variant: str | None = None) -> None:
        self._threads, self._variant = threads, variant
        self._crew = _Crew(threads - 1)  # beside the caller's own
        self._flags = 0

    def configure(self, program: Program, directions: int) -> None:
        self._program, self._directions, self._flags = program, directions, 0
        self._plan = Plan(program, directions, self._variant)
        sizes = self._plan.sizes
        self._weights = _Region(sizes.weights)
        self._lanes = [_Lane(sizes) for _ in range(self._threads)]
        self._kept: list[_Dealt] = []
        self._spare: list[Bytes] = []

    def load(self, weights: Rows) -> None:
        blocks = self._plan.sizes.parameter_blocks
        _check_rows(weights, (blocks,), "weights")
        self._spare += [kept.tapes for kept in self._kept if kept.tapes is not None]
        self._kept.clear()
        self._flags |= self._plan.kernels.load(
            self._plan.net,
            self._weights.c,
            self._lanes[0].scratch.c,
            pointer("int16_t[]", weights.mantissas),
            pointer("int8_t[]", weights.exponents),
            _ALL,
        )

    def forward(self, points: Rows, directions: Rows | None, keep: bool = False) -> Values:
        return self._forward(self._deal(points, directions, keep))

    def _forward(self, dealt: _Dealt) -> Values:
        shape = len(dealt.points.exponents), dealt.streams, self._plan.sizes.out_blocks
        out = Values(np.empty((*shape, LANES), np.int32), np.empty(shape, np.int16))
        mantissas, exponents = pointer("int32_t *", out.mantissas), pointer("int16_t *", out.exponents)
        run, net, weights = self._plan.kernels.forward, self._plan.net, self._weights.c
        calls: list[Call] = []
        for lane, batch, start in dealt.shares:
            at = start * shape[1] * shape[2]
            calls.append(partial(run, net, weights, lane.scratch.c, batch, mantissas + at * LANES, exponents + at))
        self._flags |= self._crew.run(calls)
        if dealt.tapes is not None:
            self._kept.append(dealt)
        return out

    def begin(self, scaling: Scaling, seed: int, step: int) -> None:
        self._seed, self._step = seed, step
        _check(scaling.exponents, np.int16, (self._plan.sizes.accumulators,), "gradient exponents")
        exponents = pointer("int16_t[]", scaling.exponents)
        for lane in self._lanes:
            self._plan.kernels.begin(self._plan.net, lane.sums.c, exponents, scaling.limit)

    def backward(self, points: Rows, directions: Rows | None, cotangents: Rows, first: int) -> None:
        dealt = self._kept_forward(points, directions)
        count, blocks = len(points.exponents), self._plan.sizes.out_blocks
        _check_rows(cotangents, (count, dealt.streams, blocks), "cotangents")
        mantissas, exponents = pointer("int16_t *", cotangents.mantissas), pointer("int8_t *", cotangents.exponents)
        run, net, weights = self._plan.kernels.backward, self._plan.net, self._weights.c
        calls: list[Call] = []
        for lane, batch, start in dealt.shares:
            at, counter = start * dealt.streams * blocks, (self._seed, self._step, first + start)
            given = batch, mantissas + at * LANES, exponents + at, counter
            calls.append(partial(run, net, weights, lane.sums.c, lane.scratch.c, *given))
        self._flags |= self._crew.run(calls)

    def gradients(self) -> Gradients:
        sizes, plan = self._plan.sizes, self._plan
        sums = self._lanes[0].sums
        if self._threads > 1:  # apart, so that asking again answers the same
            sums = _Region(sizes.gradients)
            sums.bytes[:] = self._lanes[0].sums.bytes
        for lane in self._lanes[1:]:
            plan.kernels.merge(plan.net, sums.c, lane.sums.c)
        blocks = sizes.parameter_blocks
        out = Gradients(
            Rows(np.empty((blocks, LANES), np.int16), np.empty(blocks, np.int8)),
            np.empty(sizes.accumulators, np.uint32),
        )
        self._flags |= plan.kernels.gradients(
            plan.net,
            self._weights.c,
            sums.c,
            self._lanes[0].scratch.c,
            pointer("int16_t[]", out.values.mantissas),
            pointer("int8_t[]", out.values.exponents),
            pointer("uint32_t[]", out.peaks),
            _ALL,
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
        return pairs(directions)

    def _deal(self, points: Rows, directions: Rows | None, keep: bool) -> _Dealt:
        """Each thread's share of the microbatches, and room for their tapes if they are to be kept."""
        streams, rows = self._streams(points, directions), self._direction_rows(directions)
        count, per = points.exponents.shape[0], points.exponents[:1].size
        tapes = self._tapes(count) if keep else None
        mantissas, exponents = pointer("int16_t *", points.mantissas), pointer("int8_t *", points.exponents)
        given = ffi.NULL if tapes is None else pointer("uint8_t *", tapes)
        shares = []
        for k, lane in enumerate(self._lanes):
            start, stop = count * k // self._threads, count * (k + 1) // self._threads
            if start == stop:
                continue
            batch = ffi.new("ppn_batch *")
            batch.count, batch.directions = stop - start, (streams - 1) // 2
            batch.bits_inputs = self._program.precision.inputs
            batch.points, batch.point_exps = mantissas + start * per * LANES, exponents + start * per
            if rows is not None:
                batch.rows, batch.row_exps = pointer("int16_t *", rows.mantissas), pointer("int8_t *", rows.exponents)
            batch.tape_step = 0 if tapes is None else self._plan.sizes.tape
            batch.tape = lane.tape.c if tapes is None else given + start * batch.tape_step
            shares.append((lane, batch, start))
        return _Dealt(points, directions, rows, tapes, streams, shares)

    def _tapes(self, count: int) -> Bytes:
        """Room for ``count`` tapes, from an earlier step where there is some."""
        size = max(1, count * self._plan.sizes.tape)
        for spare in self._spare:
            if spare.size == size:
                self._spare = [other for other in self._spare if other is not spare]
                return spare
        return np.empty(size, np.uint8)

    def _kept_forward(self, points: Rows, directions: Rows | None) -> _Dealt:
        """The forward at these very points, run again if its tapes are gone."""
        for kept in self._kept:
            if kept.points is points and kept.directions is directions:
                return kept
        self._forward(dealt := self._deal(points, directions, keep=True))
        return dealt


def _check(array: NDArray[Any], dtype: type, shape: tuple[int, ...], what: str) -> None:
    """The kernels read memory as it stands: refuse any that is not of the type and shape they expect."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise UsageError(f"{what} must be {np.dtype(dtype)} {shape} in C order, got {array.dtype} {array.shape}")


def _check_rows(rows: Rows, shape: tuple[int, ...], what: str) -> None:
    """Both arrays of so many blocks."""
    _check(rows.mantissas, np.int16, (*shape, LANES), what)
    _check(rows.exponents, np.int8, shape, f"exponents of {what}")


class _Region:
    """Memory of the kernels, as ``bytes`` and as a C pointer."""

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(max(size, 1), np.uint8)
        self.c = pointer("uint8_t[]", self.bytes)


class _Lane:
    """What a thread has to itself."""

    def __init__(self, sizes: Any) -> None:
        self.scratch, self.sums, self.tape = (_Region(n) for n in (sizes.scratch, sizes.gradients, sizes.tape))


class _Crew:
    """Threads that wait for calls; a queue each costs less than a pool's futures."""

    def __init__(self, size: int) -> None:
        self._jobs: list[SimpleQueue[Call | None]] = [SimpleQueue() for _ in range(size)]
        self._answers: SimpleQueue[int] = SimpleQueue()
        for jobs in self._jobs:
            threading.Thread(target=_serve, args=(jobs, self._answers), daemon=True).start()
        weakref.finalize(self, _dismiss, self._jobs)

    def run(self, calls: Sequence[Call]) -> int:
        """Make all calls at once, the first in the caller's thread; answers their flags together."""
        flags = 0
        for jobs, call in zip(self._jobs, calls[1:], strict=False):
            jobs.put(call)
        for call in calls[:1]:
            flags |= call()
        for _ in calls[1:]:
            flags |= self._answers.get()
        return flags


def _serve(jobs: SimpleQueue[Call | None], answers: SimpleQueue[int]) -> None:
    while (call := jobs.get()) is not None:
        answers.put(call())


def _dismiss(crew: Sequence[SimpleQueue[Call | None]]) -> None:
    for jobs in crew:
        jobs.put(None)
