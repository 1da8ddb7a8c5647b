"""Networks: what a person describes, and the list of stages a device runs (docs/spec.md, sections 4 and 8)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .smx import BLOCK, blocks_of, check_bits

Activation = Literal["tanh", "sine"]
Mode = Literal["naive", "difference", "odd-even", "jet", "laplacian", "laplacian-time"]
Contraction = Literal["prs", "sequential"]
Init = Literal["normal", "orthogonal"]

ACTIVATIONS: tuple[Activation, ...] = ("tanh", "sine")
MODES: tuple[Mode, ...] = ("naive", "difference", "odd-even", "jet", "laplacian", "laplacian-time")
SUMMED: tuple[Mode, ...] = ("laplacian", "laplacian-time")  # whose directions share one even part
CONTRACTIONS: tuple[Contraction, ...] = ("prs", "sequential")
INITS: tuple[Init, ...] = ("normal", "orthogonal")
DEFAULT_PRECISION = "w8a8g12"
CORE_BITS = 16  # TT cores and biases travel as SMX(16)
MAX_MODES = 4  # modes a side of a TT matrix (PPN_MODES in ppn.h)
MAX_INNER = 4096  # longest inner dimension (PPN_INNER in ppn.h)

Floats = NDArray[np.float64]


def stream_count(mode: Mode, directions: int) -> int:
    """S: streams of a microbatch along so many directions (spec 4)."""
    return directions + 2 if mode in SUMMED and directions else 1 + 2 * directions


def odd_and_even(mode: Mode, streams: int) -> tuple[slice, slice]:
    """Where the odd (plus) and the even (minus) streams lie among so many (spec 4)."""
    if mode not in SUMMED:
        return slice(1, None, 2), slice(2, None, 2)
    last = max(streams - 1, 1)
    return slice(1, last), slice(last, None)


@dataclass(frozen=True)
class Precision:
    """Mantissa widths: weights, activations, base stream, gradients and network input.

    Written ``w8a8g12`` or, with a base stream of its own width, ``w8a8b12g12``.
    """

    weights: int = 8
    activations: int = 8
    base: int = 8
    gradients: int = 12
    inputs: int = 16

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "base", "gradients", "inputs"):
            check_bits(getattr(self, name), f"{name} width")

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Read ``w8a8g12`` or ``w8a8b12g12``; UsageError if it is neither."""
        found = re.fullmatch(r"w(\d+)a(\d+)(?:b(\d+))?g(\d+)", text)
        if not found:
            raise UsageError(f"precision {text!r} is not understood: write w8a8g12, w8a8b12g12 or float32")
        w, a, b, g = found.groups()
        return cls(int(w), int(a), int(b or a), int(g))

    def __str__(self) -> str:
        base = "" if self.base == self.activations else f"b{self.base}"
        return f"w{self.weights}a{self.activations}{base}g{self.gradients}"

    def evaluation(self) -> Precision:
        """The widths for using a trained solver: same weights, 16-bit activations."""
        return replace(self, activations=16, base=16, inputs=16)

    def for_mode(self, mode: Mode) -> Precision:
        """``naive`` quantizes x + d like any activation: one width for every stream and the input."""
        return replace(self, base=self.activations, inputs=self.activations) if mode == "naive" else self


@dataclass(frozen=True)
class Stage:
    """One SMX(w) matrix applied to ``panels`` equal column panels of its input (spec 4)."""

    rows: int
    cols: int
    expand: bool = False  # False: y = x W^T (cols to rows); True: y = x W (rows to cols)
    panels: int = 1
    closes: bool = True  # adds a bias and, unless last, the activation
    chain: int | None = None  # index of the half-chain contracted into this matrix

    @property
    def inputs(self) -> int:
        return self.rows if self.expand else self.cols

    @property
    def outputs(self) -> int:
        return self.cols if self.expand else self.rows

    @property
    def matrix_blocks(self) -> int:
        return blocks_of(self.rows) * blocks_of(self.cols)

    @property
    def in_blocks(self) -> int:
        return self.panels * blocks_of(self.inputs)

    @property
    def out_blocks(self) -> int:
        return self.panels * blocks_of(self.outputs)


@dataclass(frozen=True)
class Chain:
    """A TT half-chain: cores (ranks[k], modes[k], ranks[k+1]) with ranks[0] = r and ranks[d] = 1 (spec 8)."""

    modes: tuple[int, ...]
    ranks: tuple[int, ...]

    def core_shape(self, k: int) -> tuple[int, int, int]:
        return self.ranks[k], self.modes[k], self.ranks[k + 1]

    def matrix_shape(self, k: int) -> tuple[int, int]:
        """The SMX(16) matrix core k travels as."""
        before, mode, after = self.core_shape(k)
        return (before * mode, after) if k + 1 < len(self.modes) else (before, mode)

    @property
    def width(self) -> int:
        return math.prod(self.modes)


@dataclass(frozen=True)
class Tensor:
    """One trained parameter tensor as it travels: a (rows, cols) matrix in SMX(bits).

    ``shape`` is the master's own; ``padded`` its columns per mode index when core-by-core stages pad the rank.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    cols: int
    bits: int
    stage: int
    bias: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def blocks(self) -> int:
        return blocks_of(self.rows) * blocks_of(self.cols)

    def element_index(self) -> NDArray[np.int64]:
        """For each of ``blocks * 16`` travelling mantissas, the element of the master, or -1 for padding."""
        index = np.arange(self.size, dtype=np.int64).reshape(self.shape)
        if len(self.shape) == 3 and self.rows * self.cols != self.size:  # (r, n, r') padded to (r, n, 4 ceil(r'/4))
            spare = self.cols // self.shape[1] - self.shape[2]
            index = np.pad(index, ((0, 0), (0, 0), (0, spare)), constant_values=-1)
        index = index.reshape(self.rows, self.cols)
        high, wide = blocks_of(self.rows), blocks_of(self.cols)
        spare_rows, spare_cols = high * BLOCK - self.rows, wide * BLOCK - self.cols
        index = np.pad(index, ((0, spare_rows), (0, spare_cols)), constant_values=-1)
        return index.reshape(high, BLOCK, wide, BLOCK).transpose(0, 2, 1, 3).reshape(-1)


@dataclass(frozen=True)
class Program:
    """What a device is configured with: stages, half-chains, widths, activation and stream mode."""

    stages: tuple[Stage, ...]
    chains: tuple[Chain, ...]
    tensors: tuple[Tensor, ...]
    precision: Precision
    activation: Activation
    mode: Mode

    @property
    def inputs(self) -> int:
        return self.stages[0].inputs * self.stages[0].panels

    @property
    def outputs(self) -> int:
        return self.stages[-1].outputs

    def with_precision(self, precision: Precision, mode: Mode) -> Program:
        """The same network at other widths."""
        precision = precision.for_mode(mode)
        tensors = tuple(
            t if t.bias or self.stages[t.stage].chain is not None else replace(t, bits=precision.weights)
            for t in self.tensors
        )
        return replace(self, precision=precision, mode=mode, tensors=tensors)


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron whose hidden square layers may be tensor trains.

    Args:
        inputs, outputs: columns of x and u.
        hidden, layers: width and number of hidden layers.
        tt: modes whose product is ``hidden``, e.g. (16, 16); None for dense layers.
        rank: TT rank of the hidden layers; a bond with fewer columns behind it is that much narrower.
        activation: ``tanh`` or ``sine``.
        contraction: ``prs`` contracts cores to two factors first; ``sequential`` applies core after core.
        omega: waves per 2 pi that the first layer starts with: the length of its rows, root mean square, and the
            range of its biases, uniform in +-omega. By default its rows are as Glorot has them, which for few
            inputs are so short that solutions with waves or fronts are found late or never.
        init: how cores start, as random normals or ``orthogonal``: each half's rows orthonormal but for a factor, so
            that all directions of the rank count alike (Saxe et al., ICLR 2014). Either way the entries of the
            product vary as Glorot has them.

    Raises:
        UsageError: sizes that cannot work; the message names the numbers.
    """

    inputs: int
    outputs: int = 1
    hidden: int = 256
    layers: int = 3
    tt: tuple[int, ...] | None = (16, 16)
    rank: int = 8
    activation: Activation = "tanh"
    contraction: Contraction = "prs"
    omega: float | None = None
    init: Init = "normal"

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "hidden", "layers", "rank"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if max(self.inputs, self.hidden) > MAX_INNER:
            raise UsageError(f"a layer takes at most {MAX_INNER} inputs, got {max(self.inputs, self.hidden)}")
        choices = {"activation": ACTIVATIONS, "contraction": CONTRACTIONS, "init": INITS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown: choose {' or '.join(known)}")
        if self.omega is not None and not (math.isfinite(self.omega) and self.omega > 0):
            raise UsageError(f"omega must be a positive number, got {self.omega}")
        if self.tt is not None:
            self._check_tt(self.tt)
        elif self.init != "normal":
            raise UsageError(f"{self.init} is a start of tensor trains: give tt, or leave out init")

    def _check_tt(self, modes: tuple[int, ...]) -> None:
        if not 1 <= len(modes) <= MAX_MODES or min(modes) < 1:
            raise UsageError(f"a TT shape has 1 to {MAX_MODES} positive modes, got {'x'.join(map(str, modes))}")
        product = math.prod(modes)
        if product != self.hidden:
            text = " x ".join(map(str, modes))
            raise UsageError(f"TT shape {text} = {product} does not match --hidden {self.hidden}")
        if self.rank > self.hidden:
            raise UsageError(f"TT rank {self.rank} exceeds --hidden {self.hidden}: a matrix has no larger rank")
        if self.contraction == "sequential" and modes[-1] % BLOCK:
            raise UsageError(f"sequential contraction needs a last mode that is a multiple of 4, got {modes[-1]}")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return (self.inputs, *[self.hidden] * self.layers, self.outputs)

    @cached_property
    def half_chain(self) -> Chain:
        """Either half of a hidden layer's TT matrix."""
        assert self.tt is not None
        behind = [math.prod(self.tt[k:]) for k in range(1, len(self.tt) + 1)]  # a matrix has no larger rank
        return Chain(self.tt, (self.rank, *(min(self.rank, columns) for columns in behind)))

    @cached_property
    def parameters(self) -> int:
        return sum(t.size for t in self.program(Precision(), "jet").tensors)

    @property
    def dense_parameters(self) -> int:
        return sum(m * n + m for n, m in pairwise(self.sizes))

    def program(self, precision: Precision, mode: Mode) -> Program:
        """The stages, chains and tensors a device needs."""
        if mode not in MODES:
            raise UsageError(f"stream mode {mode!r} is unknown: choose one of {', '.join(MODES)}")
        return _Builder(self, precision.for_mode(mode), mode).build()

    def initial(self, rng: np.random.Generator) -> list[Floats]:
        """Master tensors in ``Program.tensors`` order: Glorot-normal matrices, cores by ``init``, zero biases; the
        first layer by ``omega`` if there is one."""
        program = self.program(Precision(), "jet")
        return [self._initial_tensor(t, rng) for t in program.tensors]

    def _initial_tensor(self, tensor: Tensor, rng: np.random.Generator) -> Floats:
        if self.omega is not None and tensor.stage == 0:
            if tensor.bias:
                return rng.uniform(-self.omega, self.omega, tensor.shape)
            return rng.normal(0.0, self.omega / math.sqrt(self.inputs), tensor.shape)
        if tensor.bias:
            return np.zeros(tensor.shape)
        if len(tensor.shape) == 2:
            return rng.normal(0.0, math.sqrt(2.0 / sum(tensor.shape)), tensor.shape)
        return self._initial_core(tensor.shape, rng)

    def _initial_core(self, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
        """Of a TT whose entries have variance 1 / hidden."""
        assert self.tt is not None
        cores = 2 * len(self.tt)
        if self.init == "orthogonal":
            rows = shape[0]  # never more than columns: a bond is no wider than what lies behind it
            q, r = np.linalg.qr(rng.normal(size=(math.prod(shape) // rows, rows)))
            even = q * np.sign(np.diag(r))  # of all orthogonal matrices none is likelier
            core: Floats = math.sqrt(self.hidden / self.rank) ** (1 / cores) * even.T.reshape(shape)
            return core
        paths = self.rank * math.prod(self.half_chain.ranks[1:]) ** 2  # products summed into one entry of W
        return rng.normal(0.0, (1.0 / (self.hidden * paths)) ** (0.5 / cores), shape)


class _Builder:
    """Turns a Network into a Program, layer after layer."""

    def __init__(self, network: Network, precision: Precision, mode: Mode) -> None:
        self.network, self.precision, self.mode = network, precision, mode
        self.stages: list[Stage] = []
        self.chains: list[Chain] = []
        self.tensors: list[Tensor] = []

    def build(self) -> Program:
        sizes = self.network.sizes
        for layer, (cols, rows) in enumerate(pairwise(sizes)):
            if self.network.tt is not None and 0 < layer < len(sizes) - 2:
                self._tt(layer, self.network.half_chain)
            else:
                self._matrix(f"layer{layer}.weight", (rows, cols), Stage(rows, cols))
            self._tensor(f"layer{layer}.bias", (rows,), 1, rows, CORE_BITS, bias=True)
        return Program(
            tuple(self.stages),
            tuple(self.chains),
            tuple(self.tensors),
            self.precision,
            self.network.activation,
            self.mode,
        )

    def _tt(self, layer: int, chain: Chain) -> None:
        if self.network.contraction == "prs":
            self._factor(f"layer{layer}.in", chain, expand=False)
            self._factor(f"layer{layer}.out", chain, expand=True)
            return
        order = range(len(chain.modes))
        for k in reversed(order):
            self._core(f"layer{layer}.in.core{k}", chain, k, expand=False)
        for k in order:
            self._core(f"layer{layer}.out.core{k}", chain, k, expand=True)

    def _factor(self, name: str, chain: Chain, expand: bool) -> None:
        self.stages.append(Stage(chain.ranks[0], chain.width, expand, closes=expand, chain=len(self.chains)))
        self.chains.append(chain)
        for k in range(len(chain.modes)):
            self._tensor(f"{name}.core{k}", chain.core_shape(k), *chain.matrix_shape(k), CORE_BITS)

    def _core(self, name: str, chain: Chain, k: int, expand: bool) -> None:
        before, mode, after = chain.core_shape(k)
        last = k + 1 == len(chain.modes)
        cols = mode if last else mode * BLOCK * blocks_of(after)
        stage = Stage(before, cols, expand, panels=math.prod(chain.modes[:k]), closes=expand and last)
        self._matrix(name, (before, mode, after), stage)

    def _matrix(self, name: str, shape: tuple[int, ...], stage: Stage) -> None:
        self.stages.append(stage)
        self._tensor(name, shape, stage.rows, stage.cols, self.precision.weights)

    def _tensor(self, name: str, shape: tuple[int, ...], rows: int, cols: int, bits: int, bias: bool = False) -> None:
        self.tensors.append(Tensor(name, shape, rows, cols, bits, len(self.stages) - 1, bias))
