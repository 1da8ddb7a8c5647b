"""The solver's engine in integers: encodes what goes to a device, decodes what comes back, scales gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device.base import OVERFLOW, STEP, Device, Gradients, Rows, Scaling
from .device.local import LocalDevice
from .engine import Pass, Range
from .errors import PicopinnError
from .kernels import Pattern, first_column
from .network import Floats, Mode, Network, Precision, Program
from .smx import BLOCK, ZERO_EXPONENT, blocks_of, to_blocks

LANES = BLOCK * BLOCK
HEADROOM = 3  # bits a gradient term may grow by before a step is repeated (spec 7)
REPEATS = 64  # saturated repeats of one step before it counts as diverged
START = -24  # gradient exponent of the very first try


@lru_cache
def _points_pattern(count: int, size: int, bits: int) -> Pattern:
    """Four points a block row: (n, 1, B)."""
    tiles = to_blocks(1 + np.arange(count * size).reshape(count, size)) - 1
    return Pattern(tiles.reshape(tiles.shape[0], 1, tiles.shape[1], LANES), bits)


@lru_cache
def _directions_pattern(count: int, size: int, bits: int) -> Pattern:
    """One block row a direction, its four rows equal: (K, B)."""
    padded = np.full((count, blocks_of(size) * BLOCK), -1)
    padded[:, :size] = np.arange(count * size).reshape(count, size)
    return Pattern(np.tile(padded.reshape(count, -1, BLOCK), BLOCK), bits)


@lru_cache
def _cotangents_pattern(count: int, streams: int, bits: int) -> Pattern:
    """(n, S) reals to blocks, four points down the first column: (microbatches, S, 1)."""
    blocks = np.full((blocks_of(count), BLOCK, streams, BLOCK), -1)
    blocks.reshape(-1, streams, BLOCK)[:count, :, 0] = np.arange(count * streams).reshape(count, streams)
    return Pattern(blocks.transpose(0, 2, 1, 3).reshape(-1, streams, 1, LANES), bits)


def _encode(array: Floats, pattern: Pattern, held: Floats | None = None) -> Rows:
    return Rows(*pattern.gather(np.ascontiguousarray(array, np.float64), held))


class Layout:
    """Where each master element travels: blocks of ``Program.tensors``, concatenated."""

    def __init__(self, program: Program) -> None:
        indices, offset = [], 0
        for tensor in program.tensors:
            index = tensor.element_index()
            indices.append(np.where(index >= 0, index + offset, -1))
            offset += tensor.size
        self.size = offset
        widths = np.concatenate([np.full(t.blocks, t.bits) for t in program.tensors])
        self._pattern = Pattern(np.concatenate(indices).reshape(-1, LANES), widths)

    def encode(self, master: Floats) -> Rows:
        return Rows(*self._pattern.gather(master))

    def decode(self, gradients: Gradients) -> Floats:
        values = gradients.values
        return self._pattern.scatter(values.mantissas, values.exponents, np.empty(self.size))


class IntegerEngine:
    """Runs a network on a device in SMX integers; see :class:`picopinn.engine.Engine`.

    Args:
        network, precision, mode: what to run.
        seed: of stochastic rounding.
        threads: of the local device.
        device: another body; by default the C kernels on this computer.
    """

    def __init__(
        self,
        network: Network,
        precision: Precision,
        mode: Mode,
        *,
        seed: int = 0,
        threads: int = 1,
        device: Device | None = None,
    ) -> None:
        self._network, self._seed, self._threads = network, seed, threads
        self.program = network.program(precision, mode)
        self._precision = self.program.precision
        self._layout = Layout(self.program)
        self._panels = max(stage.panels for stage in self.program.stages)
        self._device: Device = device or LocalDevice(threads)
        self._directions = -1  # configured for so many; -1: not yet
        self._weights: Rows | None = None
        self._encoded: dict[int, tuple[Any, Rows]] = {}  # by id of the array, which is kept alive beside it
        self._along: tuple[Floats, Floats, Rows] | None = None  # the last directions, as they came, snapped and encoded
        self._exponents: NDArray[np.int16] | None = None  # of the accumulators, once a step has been scaled
        self._saturations = np.zeros(sum(1 + s.closes for s in self.program.stages), np.int64)  # an accumulator
        self._gradients: Rows | None = None  # of the last step
        self._stepped_too_far = False
        self._trains = True  # a backward follows each forward

    # ---- what goes out

    def load(self, master: Floats) -> None:
        self._encoded.clear()
        self._weights = self._layout.encode(master)
        if self._directions >= 0:
            self._device.load(self._weights)

    def snap(self, points: Floats) -> Floats:
        return self._snap(points, _points_pattern(*points.shape, self._precision.inputs))

    def snap_directions(self, directions: Floats) -> Floats:
        if self._along is None or not np.array_equal(self._along[0], directions):
            snapped = self._snap(directions, _directions_pattern(*directions.shape, self._precision.inputs))
            self._along = directions.copy(), snapped, self._encoded[id(snapped)][1]
        _, snapped, rows = self._along
        self._encoded[id(snapped)] = (snapped, rows)
        return snapped

    def _snap(self, array: Floats, pattern: Pattern) -> Floats:
        snapped = np.empty(array.shape)
        self._encoded[id(snapped)] = (snapped, _encode(array, pattern, snapped))
        return snapped

    def _encode_points(self, points: Floats) -> Rows:
        return _encode(points, _points_pattern(*points.shape, self._precision.inputs))

    def _encode_directions(self, directions: Floats) -> Rows:
        return _encode(directions, _directions_pattern(*directions.shape, self._precision.inputs))

    def _encode_naive(self, points: Floats, directions: Floats | None) -> Rows:
        """x, x + d_1, x - d_1, ... each quantized for itself: (n, S, B)."""
        shifts = [np.zeros(points.shape[1])]
        for direction in () if directions is None else directions:
            shifts += [direction, -direction]
        rows = [self._encode_points(points + shift) for shift in shifts]
        return Rows(
            np.concatenate([r.mantissas for r in rows], axis=1), np.concatenate([r.exponents for r in rows], axis=1)
        )

    def _rows(self, points: Floats, directions: Floats | None) -> tuple[Rows, Rows | None]:
        """Both as the device takes them, encoded once a step."""
        if self.program.mode == "naive":
            return self._cached(points, lambda: self._encode_naive(points, directions), naive=True), None
        rows = self._cached(points, lambda: self._encode_points(points))
        if directions is None:
            return rows, None
        return rows, self._cached(directions, lambda: self._encode_directions(directions))

    def _cached(self, array: Floats, encode: Any, naive: bool = False) -> Rows:
        key = -id(array) if naive else id(array)  # snap remembered the points alone
        if key not in self._encoded:
            self._encoded[key] = (array, encode())
        return self._encoded[key][1]

    # ---- streams

    def forward(self, points: Floats, directions: Floats | None) -> Floats:
        self._configure(directions)
        rows, along = self._rows(points, directions)
        values = self._device.forward(rows, along, keep=self._trains)
        return first_column(values.mantissas, values.exponents)[: len(points)]

    def _configure(self, directions: Floats | None) -> None:
        """Have the device ready for these directions."""
        self.prepare(0 if directions is None else len(directions))

    def prepare(self, directions: int) -> None:
        """Have the device ready for so many directions; UsageError if it has no room."""
        if directions <= self._directions:
            return
        self._device.configure(self.program, directions)
        self._directions = directions
        if self._weights is not None:
            self._device.load(self._weights)

    # ---- gradients

    def gradient(self, passes: Sequence[Pass], step: int) -> Floats:
        for one in passes:
            self._configure(one.directions)
        bits = self._precision.gradients
        jobs = [
            (*self._rows(p.points, p.directions), _encode(p.cotangents, _cotangents_pattern(*p.cotangents.shape, bits)))
            for p in passes
        ]
        limit = self._limit(jobs)
        calibrated = self._exponents is not None
        if self._exponents is None:
            self._exponents = np.full(self._saturations.shape, START, np.int16)
        for _ in range(REPEATS):
            gradients = self._attempt(jobs, Scaling(self._exponents, limit), step)
            saturated = gradients.peaks > (1 << limit)
            self._exponents = _rescaled(self._exponents, gradients.peaks, limit)
            if saturated.any():
                self._saturations = self._saturations + (saturated & calibrated)
            else:
                if calibrated:
                    self._gradients = gradients.values
                    return self._layout.decode(gradients)
                calibrated = True  # the first step runs once more, now at its own scale
        raise PicopinnError(f"gradients keep growing at step {step + 1}: try a smaller learning rate")

    def _attempt(self, jobs: list[tuple[Rows, Rows | None, Rows]], scaling: Scaling, step: int) -> Gradients:
        self._device.begin(scaling, self._seed, step)
        first = 0
        for points, directions, cotangents in jobs:
            self._device.backward(points, directions, cotangents, first)
            first += len(points.exponents)
        gradients = self._device.gradients()
        self._check_flags()
        return gradients

    def _limit(self, jobs: list[tuple[Rows, Rows | None, Rows]]) -> int:
        """The largest t with terms * 2^t < 2^31 for every accumulator (spec 7)."""
        terms = self._panels * sum(c.exponents.shape[0] * c.exponents.shape[1] for _, _, c in jobs)
        return 30 - int(terms - 1).bit_length()

    def _check_flags(self) -> None:
        flags = self._device.flags()
        self._stepped_too_far |= bool(flags & STEP)
        if flags & OVERFLOW:
            raise PicopinnError("a number left the range of SMX exponents (2^127): try a smaller learning rate")

    # ---- the rest

    def state(self) -> dict[str, NDArray[Any]]:
        if self._exponents is None:
            return {}
        return {"exponents": self._exponents, "saturations": self._saturations}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        exponents = state.get("exponents")
        self._exponents = None if exponents is None else exponents.astype(np.int16)
        self._saturations = state.get("saturations", np.zeros_like(self._saturations))

    def evaluator(self) -> IntegerEngine:
        engine = IntegerEngine(self._network, self._precision.evaluation(), "jet", threads=self._threads)
        engine._trains = False
        return engine

    def ranges(self) -> list[Range]:
        if self._exponents is None or self._weights is None or self._gradients is None:
            return []  # no step was taken yet
        first = np.cumsum([0, *(1 + stage.closes for stage in self.program.stages)])
        ends = np.cumsum([tensor.blocks for tensor in self.program.tensors])[:-1]
        both = (np.split(rows.exponents, ends) for rows in (self._weights, self._gradients))
        found = []
        for tensor, weights, gradients in zip(self.program.tensors, *both, strict=True):
            at = first[tensor.stage] + tensor.bias
            spans = _span(weights), _span(gradients)
            found.append(Range(tensor.name, *spans, int(self._exponents[at]), int(self._saturations[at])))
        return found

    def warnings(self) -> list[str]:
        if not self._stepped_too_far:
            return []
        return ["finite steps were limited to |d| < 8 inside the network: choose a smaller --sigma"]


def _span(exponents: NDArray[np.int8]) -> tuple[int, int] | None:
    """The smallest and the largest, zero blocks left out."""
    known = exponents[exponents != ZERO_EXPONENT]
    return (int(known.min()), int(known.max())) if known.size else None


def _rescaled(exponents: NDArray[np.int16], peaks: NDArray[np.uint32], limit: int) -> NDArray[np.int16]:
    """Exponents for the next try (spec 7)."""
    scaled = []
    for exponent, peak in zip(exponents.tolist(), peaks.tolist(), strict=True):
        growth = peak.bit_length() - (limit - HEADROOM) if peak else -8
        if peak > 1 << limit:
            growth = max(growth, 4)
        scaled.append(min(max(exponent + growth, -400), 400))
    return np.array(scaled, np.int16)
