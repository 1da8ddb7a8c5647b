"""A whole training step on the chip, bit by bit: parameters, points and cotangents in, outputs and gradients out.

It follows docs/spec.md from section 4 on with the units of ``functional.py`` and ``activation.py``, and takes its
program as a board does (W3). Blocks are ``Scaled``; those of streams are (n, S, B): microbatch, stream, block column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product as pairs_of
from math import prod
from typing import Any

import numpy as np

from . import activation as unit
from .functional import (
    ABSENT,
    EMPTY,
    SUM_LIMIT,
    ZERO_EXPONENT,
    Blocks,
    Ints,
    Scaled,
    block_products,
    encode,
    placed,
    product,
    rounded,
)
from .program import SUMMED, Chain, Program
from .workload import BLOCK, blocks_of

LANES = BLOCK * BLOCK
WIDE = 16  # mantissas of cores, biases and gradients


# ---- what a step leaves behind


@dataclass(eq=False)
class Layer:
    """Parameters of a stage as the grid uses them: its matrix, what it was made of, its bias (B,)."""

    matrix: Blocks
    cores: list[Blocks]
    tails: list[Blocks]
    bias: Scaled | None


@dataclass(eq=False)
class Tape:
    """A forward pass: the input of every stage, the linearization behind it if it closes, and the output sums."""

    inputs: list[Scaled] = field(default_factory=list)
    kept: list[unit.Linearization | None] = field(default_factory=list)
    output: Scaled | None = None


@dataclass(eq=False)
class Sums:
    """A gradient on its way: int32 sums (.., .., 4, 4), of a bias (B, 1, 4), at one exponent; their peak (spec 7)."""

    x: Ints
    exponent: int
    peak: int = 0

    def add(self, terms: Ints, exponents: Ints) -> None:
        """Add block products (t, ..., 4, 4) or rows of one (t, ..., 1, 4)."""
        moved = placed(terms, exponents, self.exponent)
        self.peak |= int(np.bitwise_or.reduce(np.minimum(np.abs(moved), SUM_LIMIT), axis=None))
        self.x = self.x + moved.sum(axis=0)

    def result(self, limit: int) -> Ints:
        """The sums (..., 16), void if they saturated."""
        return self.x if self.peak <= 1 << limit else np.zeros_like(self.x)


class Chip:
    """The accelerator as a device: ``load``, ``forward``, ``begin``, ``backward`` and ``gradients``.

    Args:
        program: the bytes of CONFIGURE (W3).
    """

    def __init__(self, program: bytes) -> None:
        self.program = Program.read(program)
        self.layers: list[Layer] = []

    # ---- parameters

    def load(self, parameters: Scaled) -> None:
        """Blocks (B,) of all tensors in order; contracts the cores (spec 8)."""
        at = 0

        def take(rows: int, cols: int, bits: int) -> Blocks:
            nonlocal at
            shape = blocks_of(rows), blocks_of(cols)
            part = parameters[at : at + prod(shape)]
            at += prod(shape)
            return Blocks(part.x.reshape(*shape, BLOCK, BLOCK), part.e.reshape(shape), bits)

        self.layers = []
        for stage in self.program.stages:
            shapes = stage.chain.shapes if stage.chain else [(stage.rows, stage.cols)]
            bits = WIDE if stage.chain else self.program.weights
            cores = [take(*shape, bits) for shape in shapes]
            tails = contracted(stage.chain, cores, self.program.weights) if stage.chain else [cores[0]]
            panel = BLOCK * blocks_of(stage.cols if stage.expand else stage.rows)
            bias = _flat(take(1, stage.panels * panel, WIDE))[0] if stage.closes else None
            self.layers.append(Layer(tails[0], cores, tails[1:], bias))

    # ---- forward

    def forward(self, points: Scaled, directions: Scaled | None) -> Tape:
        """Points (n, 1 or S, B) and directions (K, B) through all stages (spec 4, 5)."""
        program, tape = self.program, Tape()
        x = self._streams(points, directions)
        for index, stage in enumerate(program.stages):
            tape.inputs.append(x)
            sums = self._biased(index, self._product(index, x, self._widths(index, x.e.shape[1])))
            if index + 1 == len(program.stages):
                tape.output = sums
                break
            kept = None
            if stage.closes:
                sums, kept = unit.forward(program.mode, program.activation, sums)
            tape.kept.append(kept)
            x = _encoded(sums, self._widths(index + 1, x.e.shape[1]))
        return tape

    def _widths(self, index: int, streams: int) -> list[int]:
        """Of the streams that a stage takes in (spec 4)."""
        program = self.program
        return [program.base] + [program.activations] * (streams - 1) if index else [program.inputs] * streams

    def _streams(self, points: Scaled, directions: Scaled | None) -> Scaled:
        """Input streams: base, then d_k and zero, or d_k and -d_k (spec 4)."""
        if self.program.mode == "naive" or directions is None:
            return points
        mode, shape = self.program.mode, (len(points.e), *directions.e.shape)
        odd = Scaled(np.broadcast_to(directions.x, (*shape, LANES)), np.broadcast_to(directions.e, shape))
        if mode == "difference":
            return unit.join(mode, points, odd, Scaled(-odd.x, odd.e))
        shape = (shape[0], 1 if mode in SUMMED else shape[1], shape[2])
        zero = Scaled(np.zeros((*shape, LANES), dtype=np.int64), np.full(shape, ZERO_EXPONENT))
        return unit.join(mode, points, odd, zero)

    def _product(self, index: int, x: Scaled, widths: Sequence[int], backward: bool = False) -> Scaled:
        """Every stream and panel times the stage's matrix (spec 3, 6)."""
        stage, matrix = self.program.stages[index], self.layers[index].matrix
        b = matrix if stage.expand != backward else matrix.transposed
        inner, outer = b.exponents.shape
        count, streams = x.e.shape[:2]
        out = (count, streams, stage.panels * outer)
        whole = Scaled(np.zeros((*out, LANES), dtype=np.int64), np.zeros(out, dtype=np.int64))
        for bits, streams_of in _by_width(widths):
            mine = (slice(None), streams_of)
            part = x[mine]
            a = Blocks(part.x.reshape(-1, inner, BLOCK, BLOCK), part.e.reshape(-1, inner), bits)
            sums, exponents = product(a, b)
            whole.x[mine] = sums.reshape(*part.e.shape[:2], -1, LANES)
            whole.e[mine] = exponents.reshape(*part.e.shape[:2], -1)
        return whole

    def _biased(self, index: int, sums: Scaled) -> Scaled:
        """Stream 0 (naive: every stream) with its bias (spec 4.1)."""
        bias = self.layers[index].bias
        if bias is None:
            return sums
        used = slice(None) if self.program.mode == "naive" else slice(0, 1)
        part = sums[:, used]
        row = np.tile(bias.x[:, :BLOCK], BLOCK)
        top = np.maximum(part.e, bias.e - 14)
        lift = (bias.e - top)[..., None]
        added = rounded(part.x, (top - part.e)[..., None]) + (rounded(row, -lift) << np.maximum(lift, 0))
        out = Scaled(sums.x.copy(), sums.e.copy())
        out.x[:, used] = np.where(bias.nonzero[:, None], added, part.x)
        out.e[:, used] = np.where(bias.nonzero, top, part.e)
        return out

    # ---- backward

    def begin(self, exponents: Sequence[int], limit: int, seed: int, step: int) -> None:
        """Clear the gradients: an exponent an accumulator, matrix then bias of every stage (spec 7)."""
        given = iter(exponents)
        self._limit, self._counter = limit, (seed, step)
        self.sums: list[tuple[Sums, Sums | None]] = []
        for layer in self.layers:
            matrix = Sums(np.zeros_like(layer.matrix.mantissas), next(given))
            row = None if layer.bias is None else np.zeros((len(layer.bias.e), 1, BLOCK), dtype=np.int64)
            bias = None if row is None else Sums(row, next(given))
            self.sums.append((matrix, bias))

    def backward(self, tape: Tape, cotangents: Scaled, first: int) -> list[Scaled]:
        """Accumulate gradients (spec 6).

        Args:
            tape: of the forward pass at these points.
            cotangents: encoded, of the outputs (n, S, B).
            first: number of the first microbatch in the step.

        Returns:
            The cotangents of every stage's output, last stage first.
        """
        program, c = self.program, cotangents
        found = [c]
        for index in range(len(program.stages) - 1, -1, -1):
            self._accumulate(index, c, tape.inputs[index])
            if index > 0:
                sums = self._product(index, c, [program.gradients] * c.e.shape[1], backward=True)
                kept = tape.kept[index - 1]
                if kept is not None:
                    sums = unit.backward(program.mode, kept, sums)
                random = words((*self._counter, index), first, *sums.e.shape)
                c = Scaled(*encode(sums.x, sums.e, program.gradients, random))
                found.append(c)
        return found

    def _accumulate(self, index: int, c: Scaled, x: Scaled) -> None:
        """Gradients of a stage's matrix and bias (spec 7)."""
        stage, (matrix, bias) = self.program.stages[index], self.sums[index]
        count, streams = c.e.shape[:2]
        for one, (bits, mine) in pairs_of(range(count), _by_width(self._widths(index, streams))):
            outer = _panels(c[one, mine], stage.panels), self.program.gradients
            inner = _panels(x[one, mine], stage.panels), bits
            (rows, row_bits), (cols, col_bits) = (inner, outer) if stage.expand else (outer, inner)
            left = rows.x.reshape(*rows.e.shape, 1, BLOCK, BLOCK).swapaxes(-1, -2)
            right = cols.x.reshape(len(cols.e), 1, -1, BLOCK, BLOCK)
            matrix.add(block_products(left, right, row_bits, col_bits), rows.e[:, :, None] + cols.e[:, None, :])
        if bias is not None:
            used = c if self.program.mode == "naive" else c[:, :1]
            columns = used.x.reshape(-1, used.e.shape[-1], BLOCK, BLOCK).sum(axis=2, keepdims=True)
            bias.add(columns, used.e.reshape(columns.shape[:2]))

    # ---- gradients

    def gradients(self) -> Scaled:
        """Of all tensors, blocks (B,) at 16 bits in the order of the parameters (spec 7, 8)."""
        found: list[Scaled] = []
        for stage, layer, (matrix, bias) in zip(self.program.stages, self.layers, self.sums, strict=True):
            sums = _scaled(matrix.result(self._limit), np.full(layer.matrix.exponents.shape, matrix.exponent))
            found += core_gradients(stage.chain, layer, sums) if stage.chain else [sums]
            if bias is not None:
                rows = np.pad(bias.result(self._limit), ((0, 0), (0, BLOCK - 1), (0, 0)))  # row 0 counts
                found.append(_scaled(rows, np.full(len(rows), bias.exponent)))
        x = np.concatenate([s.x.reshape(-1, LANES) for s in found])
        return Scaled(*encode(x, np.concatenate([s.e.reshape(-1) for s in found]), WIDE))

    @property
    def peaks(self) -> list[int]:
        """Of every accumulator (spec 7)."""
        return [s.peak for pair in self.sums for s in pair if s is not None]


# ---- TT contraction


def contracted(chain: Chain, cores: Sequence[Blocks], bits: int) -> list[Blocks]:
    """F_1 .. F_d of a half-chain, one product after the other: F_1 at ``bits``, the others at 16 (spec 8)."""
    if len(cores) == 1:
        flat = _flat(cores[0])
        m, e = encode(flat.x, flat.e, bits)
        return [Blocks(m.reshape(cores[0].mantissas.shape), e, bits)]
    tails = [cores[-1]]
    for k in range(len(cores) - 2, -1, -1):
        columns = prod(chain.modes[k + 1 :])
        whole, exponent = flattened(*product(cores[k], tails[0]), chain.shapes[k][0], columns)
        tails.insert(0, _matrix(whole.reshape(chain.ranks[k], -1), exponent, WIDE if k else bits))
    return tails


def core_gradients(chain: Chain, layer: Layer, sums: Scaled) -> list[Scaled]:
    """Gradients of the cores from those of the stage's matrix (spec 8, backward)."""
    found: list[Scaled] = []
    flat = _unblocked(sums.x.reshape(*sums.e.shape, BLOCK, BLOCK), chain.ranks[0], prod(chain.modes))
    exponent, df = int(sums.e.flat[0]), sums
    for k, tail in enumerate(layer.tails):
        columns = prod(chain.modes[k + 1 :])
        cut = _matrix(flat.reshape(-1, columns), exponent, WIDE)
        found.append(_scaled(*product(cut, tail.transposed)))
        sums_x, sums_e = product(layer.cores[k].transposed, cut)
        df = _scaled(sums_x, sums_e)
        flat, exponent = flattened(sums_x, sums_e, chain.ranks[k + 1], columns)
    return [*found, df]


def flattened(x: Ints, e: Ints, rows: int, cols: int) -> tuple[Ints, int]:
    """Sums (.., .., 4, 4) as a rows x cols matrix at the largest exponent (spec 8)."""
    present = e != EMPTY
    top = int(np.where(present, e, ABSENT).max()) if present.any() else 0
    moved = np.where(present[..., None, None], rounded(x, (top - e)[..., None, None]), 0)
    return _unblocked(moved, rows, cols), top


def _unblocked(x: Ints, rows: int, cols: int) -> Ints:
    whole = x.swapaxes(1, 2).reshape(x.shape[0] * BLOCK, -1)
    return whole[:rows, :cols]


def _matrix(flat: Ints, exponent: int, bits: int) -> Blocks:
    """A matrix of one exponent, encoded."""
    rows, cols = (blocks_of(size) for size in flat.shape)
    padded = np.pad(flat, ((0, rows * BLOCK - flat.shape[0]), (0, cols * BLOCK - flat.shape[1])))
    tiles = padded.reshape(rows, BLOCK, cols, BLOCK).swapaxes(1, 2).reshape(rows, cols, LANES)
    m, e = encode(tiles, np.full((rows, cols), exponent), bits)
    return Blocks(m.reshape(rows, cols, BLOCK, BLOCK), e, bits)


# ---- random numbers and small things


def words(counter: tuple[int, int, int], first: int, count: int, streams: int, blocks: int) -> Ints:
    """32-bit numbers (n, S, B, 16) for seed, step and stage, microbatches from ``first`` on (spec 9)."""
    state: Any = np.zeros((count, streams, 1), dtype=np.uint64)
    for number in (*counter, first + np.arange(count)[:, None, None], np.arange(streams)[None, :, None]):
        state = _mix(state ^ (np.asarray(number).astype(np.uint64) & 0xFFFFFFFF))
    steps = np.arange(blocks * LANES, dtype=np.uint64) * np.uint64(0x9E3779B9)
    mixed: Ints = _mix((state + steps) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return mixed.reshape(count, streams, blocks, LANES)


def _mix(x: Any) -> Any:
    x = x ^ (x >> np.uint64(16))
    x = (x * np.uint64(0x7FEB352D)) & np.uint64(0xFFFFFFFF)
    x = x ^ (x >> np.uint64(15))
    x = (x * np.uint64(0x846CA68B)) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> np.uint64(16))


def _by_width(widths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Streams that share a width."""
    return [(bits, [s for s, width in enumerate(widths) if width == bits]) for bits in sorted(set(widths))]


def _encoded(sums: Scaled, widths: Sequence[int]) -> Scaled:
    """Streams (n, S, B), each at its own width."""
    out = Scaled(np.zeros_like(sums.x), np.zeros_like(sums.e))
    for bits, mine in _by_width(widths):
        out.x[:, mine], out.e[:, mine] = encode(sums.x[:, mine], sums.e[:, mine], bits)
    return out


def _panels(streams: Scaled, panels: int) -> Scaled:
    """Streams (S, panels B) as block rows (S panels, B)."""
    shape = (streams.e.shape[0] * panels, streams.e.shape[1] // panels)
    return Scaled(streams.x.reshape(*shape, LANES), streams.e.reshape(shape))


def _flat(matrix: Blocks) -> Scaled:
    return _scaled(matrix.mantissas, matrix.exponents)


def _scaled(x: Ints, e: Ints) -> Scaled:
    return Scaled(x.reshape(*e.shape, LANES), e)
