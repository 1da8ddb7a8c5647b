"""Fake quantization that agrees with the C to the last bit: ``quantized.py`` and everything that hardware adds to it.

Written from docs/spec.md (the numbers in brackets are its sections) as PyTorch in floats: a quantized tensor holds real
values in 4x4 blocks (..., R, C, 4, 4). All is float64, because an accumulator has up to 31 bits and float32 holds 24;
so products, powers of two and sums below are exact, and rounding happens only where it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from picopinn.errors import PicopinnError
from picopinn.network import Activation, Chain, Network, Precision

from .model import Model
from .model import Stage as Matrices
from .quantized import Quantized, inputs
from .smx import LOWEST, Bits, block_exponent, quantize, quantize_blocks, tiles, untiled

ABSENT = -(1 << 20)  # the exponent of a block of zeros: below all others, also twice or added to another
START = -24  # unit of all gradient sums at a run's first try
TRIES = 64  # of one step
WIDE = 16  # width of everything around an activation, of cores and of biases


class Sum(NamedTuple):
    """Values (..., 4, 4) in units of 2^unit (..., 1, 1), before they are quantized."""

    value: Tensor
    unit: Tensor


def power(exponent: Tensor) -> Tensor:
    """2^exponent; of absent blocks, which are zero, anything finite."""
    return torch.exp2(exponent.clamp(-1000, 1000).double())


def near(x: Tensor) -> Tensor:
    """The nearest integer, ties up (1)."""
    return torch.floor(x + 0.5)


def onto(x: Tensor, unit: Tensor) -> Tensor:
    """x to the nearest multiple of 2^unit, ties up."""
    step = power(unit)
    return near(x / step) * step


def exponent(blocks: Tensor, bits: Bits) -> Tensor:
    """The exponent of blocks that were quantized: their largest mantissa has bits - 1 bits. ABSENT of zero blocks."""
    return torch.where(blocks.any(dim=-1, keepdim=True).any(dim=-2, keepdim=True), block_exponent(blocks, bits), ABSENT)


def is_absent(unit: Tensor) -> Tensor:
    return unit < ABSENT // 2


# ------------------------------------------------------------------------------------------------ sums (3)


def aligned(*terms: Sum) -> Sum:
    """Terms rounded to the unit of the largest, with headroom for their number, and added."""
    headroom = (len(terms) - 1).bit_length()
    unit = torch.stack(torch.broadcast_tensors(*[term.unit for term in terms])).amax(dim=0)
    total = sum(onto(term.value, unit + headroom) for term in terms)
    return Sum(total, torch.where(is_absent(unit), ABSENT, unit + headroom))


def kept(x: Sum) -> Sum:
    """15 bits fewer, at the unit that follows from it (5)."""
    return Sum(onto(x.value, x.unit + 15), torch.where(is_absent(x.unit), ABSENT, x.unit + 15))


def product(x: Tensor, x_bits: Bits, matrix: Tensor, bits: int) -> Sum:
    """x (S, R, K, 4, 4) times a matrix (K, C, 4, 4): every block product is exact, then they are aligned and added."""
    units = exponent(x, x_bits)[..., None, 0, 0] + exponent(matrix, bits)[..., 0, 0]  # (S, R, K, C)
    room = headroom(x_bits, bits, matrix.shape[0])
    unit = (units.amax(dim=-2) + room)[..., None, None]
    terms = torch.einsum("srkil,kclj->srkcij", x, matrix)
    return Sum(onto(terms, unit[:, :, None]).sum(dim=2), torch.where(is_absent(unit), ABSENT, unit))


def headroom(p: Bits, q: int, inner: int) -> Tensor:
    """Shift that keeps a sum of ``inner`` block products within 2^30, for each width p: broadcasts to (S, R, C)."""

    def one(width: int) -> int:
        largest = 4 * (2 ** (width - 1) - 1) * (2 ** (q - 1) - 1)
        return next(h for h in range(32) if inner * ((largest >> h) + 1) <= 1 << 30)

    return torch.tensor([one(int(width)) for width in torch.as_tensor(p).flatten()]).view(-1, 1, 1)


def with_bias(x: Sum, bias: Tensor) -> Sum:
    """A bias (1, C, 4, 4), of which row 0 counts, added to every row of x (1, R, C, 4, 4) (4.1)."""
    its = exponent(bias, WIDE)
    unit = torch.maximum(torch.where(is_absent(x.unit), -256, x.unit), its - 14)
    total = onto(x.value, unit) + onto(bias[..., :1, :], unit)
    there = ~is_absent(its)
    return Sum(torch.where(there, total, x.value), torch.where(there, unit, x.unit))


# ---------------------------------------------------------------------------------------- activations (5)


class Phi(NamedTuple):
    """An activation and its first three derivatives, h with 15 and p with 14 fraction bits, as integers."""

    h: Tensor
    p1: Tensor
    p2: Tensor
    p3: Tensor


def table(values: Tensor) -> Tensor:
    return near(values * 2**15).clamp(max=32767)


TANH = table(torch.tanh(torch.arange(1025).double() / 128))
SINE = table(torch.sin(torch.pi * torch.arange(514).double() / 1024))


def interpolated(values: Tensor, position: Tensor, bits: int) -> Tensor:
    """Table values at position / 2^bits, on lines between entries."""
    entry = torch.floor(position / 2**bits)
    rest = position - entry * 2**bits
    low, high = values[entry.long()], values[entry.long() + 1]
    return low + near((high - low) * rest / 2**bits)


def tanh(z: Tensor) -> Phi:
    x = near(z * 2**22).clamp(1 - 2**25, 2**25 - 1)
    h = torch.sign(x) * interpolated(TANH, x.abs(), 15)
    p1 = near((2**30 - h * h) / 2**16)
    p2 = near(-h * p1 / 2**14)
    return Phi(h, p1, p2, near((-2 * p1 * p1 - h * p2) / 2**14))


def sine(z: Tensor) -> Phi:
    unit = block_exponent(z, WIDE)
    mantissa = z / power(unit)
    turns = 4 * (5215 * mantissa) + near(mantissa * 6199 / 2**13)  # times 2^(unit - 17), in 2 pi
    angle = near(turns * power(unit + 7))  # in 2^-24 turns
    h = wave(angle)
    cosine = near(wave(angle + 2**22) / 2)
    return Phi(h, cosine, near(-h / 2), -cosine)


def wave(angle: Tensor) -> Tensor:
    """The sine of an angle in 2^-24 turns, 15 fraction bits."""
    angle = torch.remainder(angle, 2**24)
    quarter = torch.floor(angle / 2**22)
    rest = angle - quarter * 2**22
    rest = torch.where(quarter % 2 == 1, 2**22 - rest, rest)
    return torch.where(quarter >= 2, -1, 1) * interpolated(SINE, rest, 13)


PHI: dict[Activation, Callable[[Tensor], Phi]] = {"tanh": tanh, "sine": sine}


class Slopes(NamedTuple):
    """What an activation leaves for backward: phi' of the value, and D and N of every direction."""

    p1: Tensor
    d: Sum
    n: Sum


def activated(phi: Callable[[Tensor], Phi], z: Tensor) -> tuple[Tensor, Slopes]:
    """Jet streams (S, R, C, 4, 4) through an activation, and what backward needs."""
    z = quantize_blocks(z, WIDE)
    h, p1, p2, p3 = phi(z[:1])
    p1, p2, p3 = p1 / 2**14, p2 / 2**14, p3 / 2**14
    a, s = z[1::2], z[2::2]
    its, other = exponent(a, WIDE), exponent(s, WIDE)
    half_square = onto(a * a, 2 * its + 15) / 2
    bend = aligned(Sum(p1 * s, other - 14), Sum(p2 * half_square, 2 * its))
    d = kept(Sum(p2 * a, its - 14))
    n = kept(aligned(Sum(p2 * s, other - 14), Sum(p3 * half_square, 2 * its)))
    return joined(h / 2**15, p1 * a, bend.value), Slopes(p1, d, n)


def joined(base: Tensor, odd: Tensor, even: Tensor) -> Tensor:
    """Stream 0, then the two of every direction in turn."""
    return torch.cat([base, torch.stack([odd, even], dim=1).flatten(0, 1)])


# ------------------------------------------------------------------------------------------- backward (6)


def transposed(slopes: Slopes, c: Tensor) -> Sum:
    """Cotangents (S, R, C, 4, 4) of an activation's outputs to those of its inputs."""
    c = quantize_blocks(c, WIDE)
    units = exponent(c, WIDE)
    base, a, s = (Sum(c[which], units[which]) for which in (slice(0, 1), slice(1, None, 2), slice(2, None, 2)))
    own = [Sum(slopes.p1 * x.value, x.unit - 14) for x in (base, a, s)]
    crossed = [Sum(x.value * y.value, x.unit + y.unit) for x, y in ((slopes.d, a), (slopes.n, s), (slopes.d, s))]
    pairs = [Sum(x.value[k : k + 1], x.unit[k : k + 1]) for k in range(len(a.value)) for x in crossed[:2]]
    first, odd = aligned(own[0], *pairs), aligned(own[1], crossed[2])
    return Sum(joined(first.value, odd.value, own[2].value), joined(first.unit, odd.unit, own[2].unit))


def stochastic(x: Sum, bits: int, words: Tensor) -> Tensor:
    """x in SMX(bits), rounded up where the random 32-bit words say so (2.2)."""
    size = x.value.abs() / power(x.unit)
    _, length = torch.frexp(size.amax(dim=(-2, -1), keepdim=True))
    shift = torch.maximum(length - 1 - (bits - 2), LOWEST - x.unit)
    rest = words & ((1 << shift.clamp(0, 32).long()) - 1)
    mantissa = torch.floor((size + rest) / power(shift)).clamp(max=2 ** (bits - 1) - 1)
    mantissa = torch.where(shift >= 32, 0, mantissa)
    return torch.sign(x.value) * mantissa * power(x.unit + shift)


def mix(x: Tensor) -> Tensor:
    """A 32-bit hash in int64, whose products wrap and keep the low bits (9)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = x ^ (x >> shift)
        x = (x * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def random_words(shape: Sequence[int], *counters: Tensor) -> Tensor:
    """32-bit numbers for blocks (S, R, C, 4, 4); counters, down to that of the stream, broadcast to (S, R)."""
    state = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        state = mix(state ^ counter)
    element = torch.arange(shape[2] * 16).view(shape[2:]) * 0x9E3779B9
    return mix((state[..., None, None, None] + element) & 0xFFFFFFFF)


# ----------------------------------------------------------------------------------------- gradients (7)


@dataclass
class Scaling:
    """The units of gradient sums, by delayed scaling, and the largest term of each since ``begin``."""

    units: dict[tuple[int, str], int]  # of each stage's matrix and, if it closes, its bias
    peaks: dict[tuple[int, str], float] = field(default_factory=dict)
    limit: int = 0
    calibrated: bool = False

    def begin(self, terms: int) -> None:
        """Before a try of so many terms, one a stream and a microbatch."""
        self.limit = 30 - (terms - 1).bit_length()
        self.peaks = dict.fromkeys(self.units, 0.0)

    def summed(self, name: tuple[int, str], terms: Tensor) -> Tensor:
        """Terms (S, R, ...), each rounded to the unit of its tensor, added over streams and microbatches."""
        unit = 2.0 ** self.units[name]
        terms = near(terms / unit)
        self.peaks[name] = max(self.peaks[name], min(float(terms.abs().max()), 2.0**30))
        return terms.sum(dim=(0, 1)) * unit

    def update(self) -> bool:
        """Units for the next try; whether these sums count: none was too large, nor is it a run's first try."""
        fits = True
        for name, peak in self.peaks.items():
            growth = int(peak).bit_length() - (self.limit - 3) if peak else -8
            if peak > 2**self.limit:
                growth, fits = max(growth, 4), False
            self.units[name] = min(max(self.units[name] + growth, -400), 400)
        counts, self.calibrated = fits and self.calibrated, self.calibrated or fits
        return counts


# ------------------------------------------------------------------------------------- as PyTorch functions


class _Stage(torch.autograd.Function):
    """Pre-activations of one stage to those of the next: activation, quantization, product, bias."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, matrix: Tensor, bias: Tensor | None, run: _Run, index: int) -> Tensor:
        model = run.model
        slopes = None
        if index and model.program.stages[index - 1].closes:
            z, slopes = activated(PHI[model.network.activation], z)
        x = quantize_blocks(z, model.widths(len(z))) if index else z
        widths = model.widths(len(z)) if index else model.precision.inputs
        m = tiles(matrix)
        total = product(x, widths, m, model.precision.weights)
        if bias is not None:
            base = with_bias(Sum(total.value[:1], total.unit[:1]), tiles(bias[None]))
            total = Sum(torch.cat([base.value, total.value[1:]]), total.unit)
        ctx.run, ctx.index, ctx.slopes, ctx.shape = run, index, slopes, matrix.shape
        ctx.save_for_backward(x, m)
        run.inputs.append(x)
        return total.value

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        x, m = ctx.saved_tensors
        run, index, model = ctx.run, ctx.index, ctx.run.model
        program, bits = model.program, model.precision.gradients
        if index + 1 == len(program.stages):
            c = quantize_blocks(c, bits)  # the loss's cotangents, as the host sends them
        run.cotangents.insert(0, c)
        closes = program.stages[index].closes
        terms = torch.einsum("srkli,srclj->srkcij", x, c)  # one a stream and a microbatch
        by_matrix = untiled(model.scaling.summed((index, "matrix"), terms), *ctx.shape)
        by_bias = model.scaling.summed((index, "bias"), c[:1].sum(dim=-2)).flatten()[: ctx.shape[1]] if closes else None
        if not index:
            return None, by_matrix, by_bias, None, None
        back = product(c, bits, m.permute(1, 0, 3, 2), model.precision.weights)
        if ctx.slopes is not None:
            back = transposed(ctx.slopes, back.value)
        return stochastic(back, bits, run.words(index, back.value.shape)), by_matrix, by_bias, None, None


class _Encoded(torch.autograd.Function):
    """A parameter matrix as it travels to the device; its gradient as it travels back, SMX(16)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, bits: int) -> Tensor:
        return quantize(matrix, bits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return quantize(gradient, WIDE), None


class _Contracted(torch.autograd.Function):
    """Cores of a half-chain to its stage matrix (rank, width) in SMX(bits), and back (8)."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, bits: int, *cores: Tensor) -> Tensor:
        factors = [quantize(core, WIDE) for core in cores]
        tails = factors[-1:]  # F_2 to F_d, and at last F_1
        for k in reversed(range(len(cores) - 1)):
            flat = flattened(_times(factors[k], tails[0]), len(factors[k]), tails[0].shape[1])
            tails.insert(0, quantize(flat.reshape(chain.ranks[k], -1), WIDE if k else bits))
        ctx.factors, ctx.tails = factors, tails[1:]
        return tails[0] if len(cores) > 1 else quantize(tails[0], bits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found: list[Tensor] = []
        for factor, tail in zip(ctx.factors[:-1], ctx.tails, strict=True):
            cut = quantize(gradient.reshape(len(factor), -1), WIDE)
            found.append(quantize(untiled(_times(cut, tail.T).value[0], *factor.shape), WIDE))
            back, last = _times(factor.T, cut), tail is ctx.tails[-1]  # the last core's is answered as it stands
            gradient = untiled(back.value[0], *tail.shape) if last else flattened(back, *tail.shape)
        return (None, None, *found, quantize(gradient, WIDE))


def _times(left: Tensor, right: Tensor) -> Sum:
    return product(tiles(left)[None], WIDE, tiles(right), WIDE)


def flattened(x: Sum, rows: int, cols: int) -> Tensor:
    """The blocks (1, R, C, 4, 4) of a matrix, all at the largest unit."""
    return untiled(onto(x.value, x.unit.max())[0], rows, cols)


@dataclass
class _Run:
    """One forward and backward: where its microbatches stand in the step, and all that was quantized on the way."""

    model: Exact
    first: int
    inputs: list[Tensor]  # of every stage (S, R, C, 4, 4)
    cotangents: list[Tensor]  # of every stage's output, set by backward

    def words(self, index: int, shape: Sequence[int]) -> Tensor:
        """Random numbers for the input cotangents of a stage."""
        counters = (self.model.seed, self.model.step, index, self.first + torch.arange(shape[1]))
        counted = [torch.as_tensor(c) for c in (*counters, torch.arange(shape[0])[:, None])]
        return random_words(shape, *counted)


class Exact(Quantized):
    """The network at a precision such as ``w8a8g12``, to the bits of the C; ``seed`` is of stochastic rounding."""

    def __init__(self, network: Network, precision: Precision, seed: int = 0) -> None:
        super().__init__(network, precision, torch.float64)
        self.seed, self.step = seed, 0
        self.runs: list[_Run] = []  # of this step
        sums = [(i, what) for i, s in enumerate(self.program.stages) for what in ("matrix", "bias")[: 1 + s.closes]]
        self.scaling = Scaling(dict.fromkeys(sums, START))

    def stages(self) -> list[Matrices]:
        self.runs = []
        return super().stages()

    def matrix(self, index: int, cores: Sequence[Tensor]) -> Tensor:
        chain = self.program.stages[index].chain
        if chain is None:
            return _Encoded.apply(cores[0], self.precision.weights)
        its = self.program.chains[chain]
        travels = [core.view(its.matrix_shape(k)) for k, core in enumerate(cores)]
        return _Contracted.apply(its, self.precision.weights, *travels)

    def bias(self, parameter: Tensor) -> Tensor:
        return _Encoded.apply(parameter[None], WIDE)[0]

    def streams(self, stages: Sequence[Matrices], x: Tensor, directions: Tensor | None) -> Tensor:
        run = _Run(self, sum(one.inputs[0].shape[1] for one in self.runs), [], [])
        self.runs.append(run)
        z = tiles(inputs(x, directions))
        for index, stage in enumerate(stages):
            z = _Stage.apply(z, stage.matrix, stage.bias, run, index)
        return untiled(z, len(x), 1)[..., 0].T

    def gradient(self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], step: int) -> list[Tensor]:
        """Again with the same random numbers until no sum is too large; the first step of a run at least twice."""
        self.step = step
        rows = [run.inputs[0].shape[:2] for run in self.runs]  # streams and microbatches
        for _ in range(TRIES):
            self.scaling.begin(sum(streams * microbatches for streams, microbatches in rows))
            for run in self.runs:
                run.cotangents.clear()
            found = list(torch.autograd.grad(outputs, self.parameters, cotangents, retain_graph=True))
            if self.scaling.update():
                return found
        raise PicopinnError(f"gradients keep growing at step {step + 1}: try a smaller learning rate")

    def evaluation(self) -> Model:
        return Exact(self.network, self.precision.evaluation())
