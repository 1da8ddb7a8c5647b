"""One training step as a plain list of operations (JSON), for models of accelerators: shapes, widths, tensors.

The list follows docs/spec.md: stages forward, derivatives, stages backward, gradients, half-chains. It says what must
be computed, not how the kernels of this computer do it: what is equal for all points (directions through the first
stage) is listed once a step, and the even streams, which are zero there, not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .network import CORE_BITS, SUMMED, Chain, Mode, Program, Stage, stream_count
from .smx import BLOCK, blocks_of

FORMAT = 1
WIDE = 16  # width around an activation (spec 5, 6)

Entry = dict[str, Any]


def to_json(name: str, program: Program, interior: int, boundary: int, directions: int, dimensions: int) -> str:
    """The step of a problem as JSON text.

    Args:
        name: of the workload.
        program: stages and widths.
        interior, boundary: points a step that carry all streams, and that carry stream 0 only.
        directions: K.
        dimensions: D, columns of a point.
    """
    step = _Step(program, directions, dimensions)
    sections = [step.prologue()]
    sections.append(step.points("interior", blocks_of(interior), directions))
    if boundary:
        sections.append(step.points("boundary", blocks_of(boundary), 0))
    sections.append(step.epilogue())
    return json.dumps(
        {"format": FORMAT, "name": name, "tensors": list(step.tensors.values()), "sections": sections}, indent=1
    )


@dataclass
class _Step:
    """Builds the sections; every tensor is noted where it is first named."""

    program: Program
    directions: int
    dimensions: int
    tensors: dict[str, Entry] = field(default_factory=dict)

    # ---- tensors

    def _tensor(self, name: str, rows: int, cols: int, store: str, bits: int = 8, scope: str = "microbatch") -> str:
        entry = {"name": name, "rows": rows, "cols": cols, "store": store, "bits": bits, "scope": scope}
        assert self.tensors.setdefault(name, entry) == entry, name
        return name

    def _matrix(self, index: int) -> str:
        """A stage's matrix: contracted from cores, or a tensor as it arrives."""
        stage = self.program.stages[index]
        own = next(t.name for t in self.program.tensors if t.stage == index)
        name = own if stage.chain is None else f"stage{index}"
        return self._tensor(name, stage.rows, stage.cols, "smx", self._bits.weights, "step")

    def _gradient(self, index: int) -> str:
        stage = self.program.stages[index]
        return self._tensor(f"stage{index}.gradient", stage.rows, stage.cols, "int32", scope="step")

    def _bias_gradient(self, index: int) -> str:
        return self._tensor(f"stage{index}.bias.gradient", 1, self.program.stages[index].outputs, "int32", scope="step")

    @property
    def _bits(self) -> Any:
        return self.program.precision

    @property
    def _count(self) -> int:
        return sum(tensor.size for tensor in self.program.tensors)

    def _shared(self) -> bool:
        """Whether directions pass the first stage apart from the points."""
        return self.program.mode != "naive" and self.directions > 0

    # ---- before and after the points

    def prologue(self) -> Entry:
        """Masters to SMX, half-chains to stage matrices, directions through the first stage."""
        masters = self._tensor("masters", 1, self._count, "float32", scope="step")
        operations = []
        for tensor in self.program.tensors:
            bits = tensor.bits if tensor.bits in (self._bits.weights, CORE_BITS) else CORE_BITS
            made = self._tensor(tensor.name, tensor.rows, tensor.cols, "smx", bits, "step")
            operations.append(
                _unit(f"{tensor.name}: encode", _layer(tensor.name), "load", "encode", tensor.size, [masters], [made])
            )
        for index, stage in enumerate(self.program.stages):
            operations += self._contract(index, stage)
        if self._shared():
            operations += self._directions()
        return {"name": "prologue", "repeat": 1, "operations": operations}

    def _contract(self, index: int, stage: Stage) -> list[Entry]:
        """Cores to the stage matrix (spec 8); a stage without cores has its tensor already."""
        mine = [t.name for t in self.program.tensors if t.stage == index and not t.bias]
        layer = _layer(mine[0])
        if stage.chain is None:
            return []
        chain, operations = self.program.chains[stage.chain], []
        tail, last = mine[-1], len(chain.modes) - 1
        if last == 0:
            made = self._matrix(index)
            return [_unit(f"{made}: encode", layer, "load", "encode", stage.rows * stage.cols, [tail], [made])]
        for k in range(last - 1, -1, -1):
            m, inner, n = _chain_product(chain, k)
            bits = CORE_BITS if k else self._bits.weights
            made = self._tail(index, chain, k) if k else self._matrix(index)
            wire = self._tensor(f"stage{index}.product{k}", m, n, "wire", scope="step")
            operations.append(
                _gemm(
                    f"stage{index}: core {k}",
                    layer,
                    "load",
                    "",
                    m,
                    inner,
                    n,
                    (CORE_BITS, CORE_BITS),
                    mine[k],
                    tail,
                    wire,
                )
            )
            operations.append(
                _unit(f"stage{index}: encode {k} to {bits}", layer, "load", "encode", m * n, [wire], [made])
            )
            tail = made
        return operations

    def _tail(self, index: int, chain: Chain, k: int) -> str:
        """F_k, the product of cores k and later, as the next product reads it."""
        before, rest = chain.ranks[k], chain.width // _width(chain, k)
        return self._tensor(f"stage{index}.tail{k}", before, rest, "smx", CORE_BITS, "step")

    def _directions(self) -> list[Entry]:
        """Directions through the first stage: the same for all points."""
        stage, rows = self.program.stages[0], BLOCK * self.directions
        bits = (self._bits.inputs, self._bits.weights)
        x = self._tensor("directions", rows, stage.cols, "smx", bits[0], "step")
        wire = self._tensor("directions.product", rows, stage.rows, "wire", scope="step")
        made = self._tensor("directions.z", rows, stage.rows, "smx", WIDE, "step")
        size = rows * stage.rows
        return [
            _gemm(
                "stage0: directions",
                "layer0",
                "forward",
                "odd",
                rows,
                stage.cols,
                stage.rows,
                bits,
                x,
                self._matrix(0),
                wire,
            ),
            _unit("stage0: encode directions to 16", "layer0", "forward", "encode", size, [wire], [made], stream="odd"),
        ]

    def epilogue(self) -> Entry:
        """Gradients back to the cores, and the optimizer's step."""
        operations, summed = [], []
        for index, stage in enumerate(self.program.stages):
            made, found = self._core_gradients(index, stage)
            operations += made
            summed += found
            if stage.closes:
                summed.append(self._bias_gradient(index))
        masters = self._tensor("masters", 1, self._count, "float32", scope="step")
        state = [masters] + [self._tensor(f"moments{i}", 1, self._count, "float32", scope="step") for i in (1, 2)]
        operations.append(_unit("optimizer", "all", "update", "adam", self._count, [*summed, *state], state))
        return {"name": "epilogue", "repeat": 1, "operations": operations}

    def _core_gradients(self, index: int, stage: Stage) -> tuple[list[Entry], list[str]]:
        """Operations that contract the stage's gradient back, and the tensors they leave (spec 8)."""
        gradient = self._gradient(index)
        if stage.chain is None or len(self.program.chains[stage.chain].modes) == 1:
            return [], [gradient]
        chain, operations, found = self.program.chains[stage.chain], [], []
        mine = [t for t in self.program.tensors if t.stage == index and not t.bias]
        layer, last = _layer(mine[0].name), len(chain.modes) - 1
        for k in range(last):
            m, inner, n = _chain_product(chain, k)  # F_k is m x n, made of core k (m x inner) and F_k+1 (inner x n)
            cut = self._tensor(f"stage{index}.cut{k}", m, n, "smx", CORE_BITS, "step")
            operations.append(
                _unit(f"stage{index}: encode dF{k}", layer, "gradient", "encode", m * n, [gradient], [cut])
            )
            tail = mine[last].name if k + 1 == last else self._tail(index, chain, k + 1)
            core = self._tensor(f"{mine[k].name}.gradient", m, inner, "int32", scope="step")
            both = (CORE_BITS, CORE_BITS)
            operations.append(_gemm(f"stage{index}: dC{k}", layer, "gradient", "", m, n, inner, both, cut, tail, core))
            gradient = self._tensor(f"stage{index}.dF{k + 1}", inner, n, "int32", scope="step")
            operations.append(
                _gemm(f"stage{index}: dF{k + 1}", layer, "gradient", "", inner, m, n, both, mine[k].name, cut, gradient)
            )
            found.append(core)
        return operations, [*found, gradient]

    # ---- the points

    def points(self, section: str, microbatches: int, directions: int) -> Entry:
        """Forward, derivatives and backward of one microbatch of four points."""
        return {
            "name": section,
            "repeat": microbatches,
            "operations": _Pass(self, section, directions).operations(),
        }


@dataclass
class _Pass:
    """The operations of one microbatch with K directions (0: stream 0 only)."""

    step: _Step
    section: str
    directions: int

    @property
    def program(self) -> Program:
        return self.step.program

    @property
    def rows(self) -> int:
        return BLOCK * stream_count(self.program.mode, self.directions)

    @property
    def _apart(self) -> bool:
        """Stream 0 has a width of its own."""
        return self.program.precision.base != self.program.precision.activations and self.directions > 0

    def operations(self) -> list[Entry]:
        found: list[Entry] = []
        last = len(self.program.stages) - 1
        for index in range(last + 1):
            found += self._forward(index)
        found += self._derivatives()
        for index in range(last, -1, -1):
            found += self._gradients(index)
            if index:
                found += self._backward(index)
        return found

    def _named(self, name: str, rows: int, cols: int, store: str, bits: int = 8) -> str:
        return self.step._tensor(f"{self.section}.{name}", rows, cols, store, bits)

    def _input(self, index: int) -> list[tuple[str, str, int, int]]:
        """(stream, tensor, rows, bits) of a stage's stored input, a part for each width."""
        stage, bits = self.program.stages[index], self.program.precision
        cols = stage.inputs * stage.panels
        if index == 0:
            rows = self.rows if self.program.mode == "naive" else BLOCK
            return [("base", self._named("points", rows, cols, "smx", bits.inputs), rows, bits.inputs)]
        if not self._apart:
            width = bits.base if self.directions == 0 else bits.activations
            return [("all", self._named(f"x{index}", self.rows, cols, "smx", width), self.rows, width)]
        return [
            ("base", self._named(f"x{index}.base", BLOCK, cols, "smx", bits.base), BLOCK, bits.base),
            (
                "directions",
                self._named(f"x{index}.directions", self.rows - BLOCK, cols, "smx", bits.activations),
                self.rows - BLOCK,
                bits.activations,
            ),
        ]

    def _forward(self, index: int) -> list[Entry]:
        stage, matrix = self.program.stages[index], self.step._matrix(index)
        found = []
        outputs = stage.outputs * stage.panels
        for stream, x, rows, bits in self._input(index):
            wire = self._named(f"y{index}.{stream}", rows, outputs, "wire")
            size = (rows * stage.panels, stage.inputs, stage.outputs)
            widths = (bits, self.program.precision.weights)
            found.append(
                _gemm(f"stage{index}", self._layer(index), "forward", stream, *size, widths, x, matrix, wire, "m")
            )
            found += self._finish(index, stream, wire, rows, outputs)
        return found

    def _finish(self, index: int, stream: str, wire: str, rows: int, outputs: int) -> list[Entry]:
        """What the outputs of a stage pass on their way to where the next stage reads them."""
        stage, layer = self.program.stages[index], self._layer(index)
        if index + 1 == len(self.program.stages):
            values = self._named("values", self.rows, outputs, "int32")
            return [
                _unit(
                    f"stage{index}: add bias", layer, "forward", "bias", rows * outputs, [wire], [values], stream=stream
                )
            ]
        made = [x for s, x, _, _ in self._input(index + 1) if s in (stream, "all") or index == 0]
        if not stage.closes:
            return [
                _unit(f"stage{index}: encode", layer, "forward", "encode", rows * outputs, [wire], made, stream=stream)
            ]
        return self._activate(index, stream, wire, rows, outputs, made)

    def _activate(self, index: int, stream: str, wire: str, rows: int, outputs: int, made: list[str]) -> list[Entry]:
        """Encode to 16 bits, activate, encode to the stream's width; keep what backward reads."""
        layer, mode = self._layer(index), self.program.mode
        base = 0 if stream == "directions" else self.rows if mode == "naive" else BLOCK
        moved = 0 if mode == "naive" or (stream == "base" and index) else self.rows - BLOCK
        extra = ["directions.z"] if index == 0 and moved else []
        total = (base + moved) * outputs
        found = [
            _unit(
                f"stage{index}: encode to 16", layer, "forward", "encode", rows * outputs, [wire], [wire], stream=stream
            )
        ]
        if base:
            slope = self._named(f"slope{index}", base, outputs, "smx", WIDE)
            unit: str = self.program.activation
            found.append(_unit(f"stage{index}: {unit}", layer, "forward", unit, base * outputs, [wire], [wire, slope]))
        if moved:
            linear = self._named(f"linear{index}", self.rows - BLOCK, outputs, "smx", WIDE)
            unit = _rule(mode)
            if unit not in ("jet", "laplacian"):  # their rule takes the curve's bends, whichever curve it is
                unit = f"{unit}-{self.program.activation}"
            size = moved * outputs
            found.append(
                _unit(
                    f"stage{index}: {unit}",
                    layer,
                    "forward",
                    unit,
                    size,
                    [wire, *extra],
                    [wire, linear],
                    stream="directions",
                )
            )
        found.append(_unit(f"stage{index}: encode", layer, "forward", "encode", total, [wire], made, stream=stream))
        return found

    def _derivatives(self) -> list[Entry]:
        """Values to derivatives, residual, and back to cotangents."""
        values = self._named("values", self.rows, self.program.outputs, "int32")
        wire = self._named("derivatives", BLOCK, self.step.dimensions + 2, "wire")
        cotangents = self._cotangent(len(self.program.stages) - 1)
        numbers = BLOCK * (self.step.dimensions + 2)
        residual = _unit("residual", "all", "derivative", "residual", numbers, [values], [wire])
        found = [residual]
        if self.directions:
            size = 2 * BLOCK * self.directions * (self.step.dimensions + 1)  # with each direction, and its length
            residual["reads"] = [wire, values]
            found.insert(0, _unit("derivatives", "all", "derivative", "stein", size, [values], [wire]))
            found.append(_unit("cotangents", "all", "derivative", "stein", size, [wire], [wire]))
        rows = self.rows * self.program.outputs
        found.append(_unit("encode cotangents", "all", "derivative", "encode", rows, [wire], [cotangents]))
        return found

    def _cotangent(self, index: int) -> str:
        """C of a stage's outputs, SMX(g)."""
        stage = self.program.stages[index]
        return self._named(
            f"c{index}", self.rows, stage.outputs * stage.panels, "smx", self.program.precision.gradients
        )

    def _gradients(self, index: int) -> list[Entry]:
        """dW += C^T X, or X^T C where the stage expands (spec 6.1)."""
        stage, layer, bits = self.program.stages[index], self._layer(index), self.program.precision
        c, total = self._cotangent(index), self.step._gradient(index)
        parts = [(x, rows, width) for _, x, rows, width in self._input(index)]
        if index == 0 and self.directions and self.step._shared():
            parts.append(("directions", BLOCK * self.directions, bits.inputs))
        found = []
        for x, rows, width in parts:
            inner = rows * stage.panels
            left, right, widths = (x, c, (width, bits.gradients)) if stage.expand else (c, x, (bits.gradients, width))
            entry = _gemm(
                f"stage{index}: dW",
                layer,
                "gradient",
                "",
                stage.rows,
                inner,
                stage.cols,
                widths,
                left,
                right,
                total,
                "k",
            )
            found.append({**entry, "accumulate": True})
        if stage.closes:
            made = self.step._bias_gradient(index)
            size = (self.rows if self.program.mode == "naive" else BLOCK) * stage.outputs
            found.append(_unit(f"stage{index}: db", layer, "gradient", "sum", size, [c, made], [made], stream="base"))
        return found

    def _backward(self, index: int) -> list[Entry]:
        """Cotangent of a stage's input: C W, or C W^T where it expands; then of the outputs before (spec 6.2, 6.3)."""
        stage, layer, before = self.program.stages[index], self._layer(index), self.program.stages[index - 1]
        bits, c = self.program.precision, self._cotangent(index)
        cols = stage.inputs * stage.panels
        wire = self._named(f"b{index}", self.rows, cols, "wire")
        size = (self.rows * stage.panels, stage.outputs, stage.inputs)
        found = [
            _gemm(
                f"stage{index}",
                layer,
                "backward",
                "all",
                *size,
                (bits.gradients, bits.weights),
                c,
                self.step._matrix(index),
                wire,
                "m",
            )
        ]
        if before.closes:
            found += self._transpose(index - 1, wire, cols)
        made, total = self._cotangent(index - 1), self.rows * cols
        found.append(_unit(f"stage{index - 1}: encode cotangent", layer, "backward", "encode", total, [wire], [made]))
        return found

    def _transpose(self, index: int, wire: str, cols: int) -> list[Entry]:
        """The activation's transpose on encoded cotangents."""
        layer, mode = self._layer(index), self.program.mode
        moved = 0 if mode == "naive" else self.rows - BLOCK
        reads = [wire, self._named(f"slope{index}", self.rows - moved, cols, "smx", WIDE)]
        if moved:
            reads.append(self._named(f"linear{index}", moved, cols, "smx", WIDE))
        size = self.rows * cols
        return [
            _unit(f"stage{index}: encode cotangent to 16", layer, "backward", "encode", size, [wire], [wire]),
            _unit(
                f"stage{index}: {mode} transpose", layer, "backward", f"{_rule(mode)}-transpose", size, reads, [wire]
            ),
        ]

    def _layer(self, index: int) -> str:
        return next(_layer(t.name) for t in self.program.tensors if t.stage == index)


def _rule(mode: Mode) -> str:
    """What moves streams of a mode: that one of them is time makes no difference."""
    return "laplacian" if mode in SUMMED else mode


def _layer(tensor: str) -> str:
    return tensor.split(".")[0]


def _width(chain: Chain, k: int) -> int:
    """Columns that the modes before k span."""
    result = 1
    for mode in chain.modes[:k]:
        result *= mode
    return result


def _chain_product(chain: Chain, k: int) -> tuple[int, int, int]:
    """C_k F_k+1: rows (r_k n_k), inner r_k+1, columns n_k+1 ... n_d (spec 8)."""
    return chain.ranks[k] * chain.modes[k], chain.ranks[k + 1], chain.width // _width(chain, k + 1)


def _gemm(
    name: str, layer: str, phase: str, stream: str, m: int, k: int, n: int, bits: Sequence[int], a: str, b: str, c: str,
    grows: str = "",
) -> Entry:  # fmt: skip
    return {
        "op": "gemm", "name": name, "layer": layer, "phase": phase, "stream": stream, "m": m, "k": k, "n": n,
        "bits_a": bits[0], "bits_b": bits[1], "a": a, "b": b, "c": c, "grows": grows, "accumulate": False,
    }  # fmt: skip


def _unit(
    name: str,
    layer: str,
    phase: str,
    unit: str,
    elements: int,
    reads: list[str],
    writes: list[str],
    stream: str = "all",
) -> Entry:
    return {
        "op": "unit", "name": name, "layer": layer, "phase": phase, "stream": stream, "unit": unit,
        "elements": elements, "reads": reads, "writes": writes, "grows": phase not in ("load", "update"),
    }  # fmt: skip
