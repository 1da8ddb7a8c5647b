"""Workloads: one training step as a plain list of operations, read from JSON.

A file holds ``name``, ``tensors`` and ``sections``. A section is a list of operations that runs ``repeat`` times, once
a microbatch; the model may merge microbatches, which makes the *growing* side of its products longer. Operations are

* ``gemm``: C (m x n) = A (m x k) B (k x n), mantissas of ``bits_a`` and ``bits_b``; ``grows`` names the side along
  points and streams, if any; with ``accumulate`` the products are added to C at an exponent known beforehand;
* ``unit``: ``elements`` numbers through one of the units of the architecture.

An operation whose input is a ``wire`` takes it as it leaves the operation before, without a buffer between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import PintaError

FORMAT = 1
BLOCK = 4
MIN_BITS, MAX_BITS = 4, 16

Phase = Literal["load", "forward", "derivative", "backward", "gradient", "update"]
Store = Literal["smx", "int32", "float32", "wire"]
Scope = Literal["step", "microbatch"]
PHASES: tuple[Phase, ...] = get_args(Phase)


def blocks_of(size: int) -> int:
    """Blocks of four that cover ``size`` rows or columns."""
    return -(-size // BLOCK)


def block_bits(bits: int) -> int:
    """Bits of a packed SMX block: 16 mantissas and one exponent of 8."""
    return BLOCK * BLOCK * bits + 8


@dataclass(frozen=True)
class Tensor:
    """Numbers that an operation reads or writes.

    Attributes:
        rows, cols: of a matrix; of one microbatch if ``scope`` says so.
        bits: mantissa width of ``smx``; unused otherwise.
        store: ``smx`` blocks, ``int32`` accumulators, ``float32`` masters, or a ``wire`` that is never stored.
        scope: lives through the ``step``, or once a ``microbatch``.
    """

    name: str
    rows: int
    cols: int
    store: Store = "smx"
    bits: int = 8
    scope: Scope = "microbatch"

    @property
    def block_bytes(self) -> float:
        """Bytes of a 4x4 block, packed."""
        if self.store == "wire":
            return 0.0
        return block_bits(self.bits) / 8 if self.store == "smx" else 4.0 * BLOCK * BLOCK

    @property
    def blocks(self) -> int:
        return blocks_of(self.rows) * blocks_of(self.cols)

    @property
    def size_bytes(self) -> float:
        """Bytes of the whole tensor (of one microbatch, if its scope is that)."""
        return self.blocks * self.block_bytes


@dataclass(frozen=True)
class Gemm:
    """C (m x n) = A (m x k) B (k x n)."""

    name: str
    layer: str
    phase: Phase
    stream: str
    m: int
    k: int
    n: int
    bits_a: int
    bits_b: int
    a: str
    b: str
    c: str
    grows: Literal["m", "k", ""] = ""
    accumulate: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.a, self.b, self.c) if self.accumulate else (self.a, self.b)

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.c,)

    @property
    def products(self) -> int:
        """Multiplications, padding not counted."""
        return self.m * self.k * self.n

    def grown(self, factor: int) -> Gemm:
        """The same for ``factor`` microbatches at once."""
        return replace(self, **{self.grows: getattr(self, self.grows) * factor}) if self.grows else self


@dataclass(frozen=True)
class Unit:
    """``elements`` numbers through the unit ``unit``."""

    name: str
    layer: str
    phase: Phase
    stream: str
    unit: str
    elements: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    grows: bool = True

    def grown(self, factor: int) -> Unit:
        """The same for ``factor`` microbatches at once."""
        return replace(self, elements=self.elements * factor) if self.grows else self


Operation = Gemm | Unit
KINDS: dict[str, type[Gemm | Unit]] = {"gemm": Gemm, "unit": Unit}


@dataclass(frozen=True)
class Section:
    """Operations that run ``repeat`` times in this order."""

    name: str
    repeat: int
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Workload:
    """One training step.

    Raises:
        PintaError: a number that cannot be, a name used twice or never defined.
    """

    name: str
    tensors: tuple[Tensor, ...]
    sections: tuple[Section, ...]
    source: str = "workload"

    def __post_init__(self) -> None:
        if len(self.by_name) != len(self.tensors):
            raise self._wrong("two tensors share a name")
        for tensor in self.tensors:
            self._check_tensor(tensor)
        for section, operation in self.operations():
            self._check_operation(section, operation)
        for section in self.sections:
            if section.repeat < 1:
                raise self._wrong(f"section {section.name!r} repeats {section.repeat} times, it must be at least 1")

    @cached_property
    def by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    def operations(self) -> Iterator[tuple[Section, Operation]]:
        """Every operation once, with its section."""
        for section in self.sections:
            for operation in section.operations:
                yield section, operation

    @property
    def products(self) -> int:
        """Multiplications of the step's matrix products."""
        return sum(s.repeat * o.products for s, o in self.operations() if isinstance(o, Gemm))

    def lifetimes(self, section: Section) -> dict[str, tuple[int, int]]:
        """First and last operation of a section that touches each of its microbatch tensors."""
        touched: dict[str, tuple[int, int]] = {}
        for index, operation in enumerate(section.operations):
            for name in (*operation.reads, *operation.writes):
                if self.by_name[name].scope == "microbatch":
                    touched[name] = (touched.get(name, (index, index))[0], index)
        return touched

    def to_json(self) -> str:
        """The text that :func:`loads` reads."""
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "tensors": [asdict(t) for t in self.tensors],
                "sections": [
                    {"name": s.name, "repeat": s.repeat, "operations": [_plain(o) for o in s.operations]}
                    for s in self.sections
                ],
            },
            indent=1,
        )

    def _check_tensor(self, tensor: Tensor) -> None:
        if tensor.rows < 1 or tensor.cols < 1:
            raise self._wrong(f"tensor {tensor.name!r} is {tensor.rows} x {tensor.cols}: sizes must be at least 1")
        for key, value, choices in (("store", tensor.store, get_args(Store)), ("scope", tensor.scope, get_args(Scope))):
            if value not in choices:
                raise self._wrong(f"tensor {tensor.name!r}: {key} {value!r} is none of {', '.join(choices)}")
        if tensor.store == "smx":
            self._check_bits(f"tensor {tensor.name!r}", tensor.bits)

    def _check_operation(self, section: Section, operation: Operation) -> None:
        where = f"operation {operation.name!r} of section {section.name!r}"
        if operation.phase not in PHASES:
            raise self._wrong(f"{where}: phase {operation.phase!r} is none of {', '.join(PHASES)}")
        for name in (*operation.reads, *operation.writes):
            if name not in self.by_name:
                raise self._wrong(f"{where} names tensor {name!r}, which the file does not define")
        sizes = (operation.m, operation.k, operation.n) if isinstance(operation, Gemm) else (operation.elements,)
        if min(sizes) < 1:
            raise self._wrong(f"{where}: sizes must be at least 1, got {' x '.join(map(str, sizes))}")
        if isinstance(operation, Gemm):
            self._check_shape(where, operation)
            self._check_bits(where, operation.bits_a)
            self._check_bits(where, operation.bits_b)
            if operation.grows not in ("m", "k", ""):
                raise self._wrong(f"{where}: grows {operation.grows!r} is none of m, k or empty")

    def _check_shape(self, where: str, gemm: Gemm) -> None:
        """A product may read a part of a tensor, or see it in another shape, but no more than it has."""
        for letter, name, rows, cols in (
            ("A", gemm.a, gemm.m, gemm.k),
            ("B", gemm.b, gemm.k, gemm.n),
            ("C", gemm.c, gemm.m, gemm.n),
        ):
            tensor = self.by_name[name]
            if rows * cols > tensor.rows * tensor.cols:
                size = f"{tensor.rows} x {tensor.cols}"
                raise self._wrong(f"{where}: {letter} is {rows} x {cols}, but tensor {name!r} has only {size}")

    def _check_bits(self, where: str, bits: int) -> None:
        if not MIN_BITS <= bits <= MAX_BITS:
            raise self._wrong(f"{where}: width {bits} is out of range, mantissas have {MIN_BITS} to {MAX_BITS} bits")

    def _wrong(self, what: str) -> PintaError:
        return PintaError(f"{self.source}: {what}")


def load(path: Path) -> Workload:
    """Read a workload file.

    Raises:
        PintaError: not such a file; the message names the entry.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PintaError(f"{path}: cannot be read: {error}") from error
    return loads(text, str(path))


def loads(text: str, source: str = "workload") -> Workload:
    """Read a workload from JSON text; ``source`` names it in errors.

    Raises:
        PintaError: not such a text; the message names the entry.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise PintaError(f"{source}: not JSON: {error}") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise PintaError(f"{source}: not a workload of format {FORMAT} (found {found!r})")
    try:
        name, tensors, sections = data["name"], data["tensors"], data["sections"]
        made = tuple(_section(section, source) for section in sections)
        return Workload(name, tuple(_build(Tensor, t, "tensor", source) for t in tensors), made, source)
    except (KeyError, TypeError, AttributeError) as error:
        raise PintaError(f"{source}: an entry is missing or has the wrong type: {error}") from error


def _section(data: Mapping[str, Any], source: str) -> Section:
    operations = tuple(_operation(o, data["name"], source) for o in data["operations"])
    return Section(data["name"], data["repeat"], operations)


def _operation(data: Mapping[str, Any], section: str, source: str) -> Operation:
    kind = data.get("op")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise PintaError(f"{source}: unknown operation {kind!r} in section {section!r}: the operations are {known}")
    rest = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "op"}
    made: Operation = _build(KINDS[kind], rest, f"operation of section {section!r}", source)
    return made


def _build(cls: type[Any], data: Mapping[str, Any], what: str, source: str) -> Any:
    known = {field.name: field for field in fields(cls)}
    if unknown := data.keys() - known.keys():
        raise PintaError(f"{source}: {what} {data.get('name')!r} has unknown entry {', '.join(sorted(unknown))}")
    if lacking := [key for key, field in known.items() if field.default is MISSING and key not in data]:
        raise PintaError(f"{source}: {what} {data.get('name')!r} lacks entry {', '.join(lacking)}")
    for key, value in data.items():
        if not _fits(value, str(known[key].type)):
            raise PintaError(f"{source}: {what} {data.get('name')!r}: {key} = {value!r} is of the wrong type")
    return cls(**data)


def _fits(value: object, hint: str) -> bool:
    """Whether a JSON value can be a field: only what JSON distinguishes is checked here."""
    if hint in ("int", "bool"):
        return type(value).__name__ == hint
    if hint.startswith("tuple"):
        return isinstance(value, Sequence) and all(isinstance(item, str) for item in value)
    return isinstance(value, str)


def _plain(operation: Operation) -> dict[str, Any]:
    kind = next(name for name, cls in KINDS.items() if isinstance(operation, cls))
    return {"op": kind, **asdict(operation)}
