"""An architecture: everything the model needs to know of a design, from one TOML file."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from .errors import PintaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Dataflow = Literal["output", "weight", "input", "best"]
BUFFERS = ("activation", "weight", "gradient")
LANES = 64  # products of two 4x4 blocks
ENERGIES = (
    "multiply_8_pj",
    "add_32_pj",
    "float_multiply_pj",
    "hop_word_per_mac",
    "sram_64b_8kib_pj",
    "sram_64b_32kib_pj",
    "sram_64b_1mib_pj",
    "dram_64b_pj",
)
WIDEST = (4, 8, 12, 16)  # bits: whole slices
AREAS = ("multiply_8_um2", "add_32_um2", "float_multiply_um2", "flip_flop_um2", "sram_bit_um2")


@dataclass(frozen=True)
class Array:
    """The grid of block engines.

    Attributes:
        rows, cols: processing elements.
        slice_multipliers: 4x4-bit multipliers of an element, a divisor or a multiple of 64.
        widest_bits: of an operand's mantissas: registers and shifters are that wide.
        dataflow: what stays in the elements.
        row_port_bytes, col_port_bytes: what the left and the top edge take a cycle.
    """

    rows: int
    cols: int
    slice_multipliers: int
    widest_bits: int
    dataflow: Dataflow
    row_port_bytes: int
    col_port_bytes: int


@dataclass(frozen=True)
class Buffer:
    """On-chip memory of ``size_bytes`` in equal banks."""

    size_bytes: int
    banks: int


@dataclass(frozen=True)
class UnitSpec:
    """A unit: ``lanes`` numbers a cycle; for each 16-bit multiplications, 32-bit additions, table bytes, floats."""

    lanes: int
    multiplies: float
    adds: float
    table_bytes: float
    floats: float = 0.0


@dataclass(frozen=True)
class Cost:
    """A published figure: its value at the reference technology, the law that scales it, and where it stands."""

    value: float
    scale: str
    source: str


@dataclass(frozen=True)
class Technology:
    """A node: supply, energy polynomial in the supply, area relative to 45 nm."""

    supply_volts: float
    energy: tuple[float, float, float]
    area: float

    @property
    def energy_factor(self) -> float:
        square, linear, constant = self.energy
        return square * self.supply_volts**2 + linear * self.supply_volts + constant


@dataclass(frozen=True)
class Architecture:
    """A design; :func:`read` makes it from a file."""

    name: str
    clock_mhz: float
    technology: str
    array: Array
    buffers: Mapping[str, Buffer]
    dram_bytes_per_second: float
    units: Mapping[str, UnitSpec]
    energy: Mapping[str, Cost]
    area: Mapping[str, Cost]
    element_ratio: Mapping[int, float]
    leakage_mw_per_mm2: float
    buffer_efficiency: float
    technologies: Mapping[str, Technology]
    source: str = field(default="architecture", compare=False)

    @property
    def dram_bytes_per_cycle(self) -> float:
        return self.dram_bytes_per_second / (self.clock_mhz * 1e6)

    def unit(self, name: str) -> UnitSpec:
        """The unit of a name; PintaError if the design has none."""
        if name not in self.units:
            raise PintaError(f"{self.source}: the workload needs [units.{name}], which is missing")
        return self.units[name]

    def scaled(self, cost: Cost, what: Literal["energy", "area"]) -> float:
        """A cost in this technology."""
        if cost.scale == "none":
            return cost.value
        here, there = self.technologies[self.technology], self.technologies["45"]
        ratio = here.energy_factor / there.energy_factor if what == "energy" else here.area / there.area
        return cost.value * ratio


def configs() -> dict[str, Path]:
    """The architectures that come with the package, by name."""
    folder = Path(str(resources.files("pinta_model"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def default() -> Architecture:
    """The default PINTA."""
    return read(configs()["pinta-default"])


def read(path: Path) -> Architecture:
    """Read an architecture file; what it does not say is taken from the one it ``extends``, if any.

    Raises:
        PintaError: not such a file; the message names the entry.
    """
    data = _toml(path)
    base = data.pop("extends", None)
    if base is not None:
        known = configs()
        if base not in known:
            raise PintaError(f"{path}: extends {base!r} is none of {', '.join(known)}")
        data = _merged(_toml(known[base]), data)
    reader = _Reader(data, str(path))
    design = reader.architecture()
    reader.refuse_unknown()
    return design


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise PintaError(f"{path}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PintaError(f"{path}: cannot be read: {error}") from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, table by table."""
    both = {key: _merged(base[key], value) for key, value in over.items() if _is_table(value, base.get(key))}
    return {**base, **over, **both}


def _is_table(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _leaves(table: Mapping[str, Any], where: str = "") -> set[str]:
    """Paths of all entries that are not tables."""
    found: set[str] = set()
    for key, value in table.items():
        found |= _leaves(value, f"{where}{key}.") if isinstance(value, Mapping) else {where + key}
    return found


class _Reader:
    """Takes entries out of a table and names what is missing or wrong."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        self.data, self.source = data, source
        self.used: set[str] = set()

    def refuse_unknown(self) -> None:
        """PintaError for an entry that was not taken: a slip of the pen must not leave the default in force."""
        unread = _leaves(self.data) - self.used
        unknown = sorted(path for path in unread if path.rpartition(".")[2] != "reference")  # a note for readers
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.used, 1)
            raise self.wrong(f"entry {unknown[0]} is unknown" + (f": did you mean {near[0]}?" if near else ""))

    def architecture(self) -> Architecture:
        technology, technologies = self.text("technology"), self._technologies()
        if technology not in technologies or "45" not in technologies:
            known = ", ".join(technologies)
            raise self.wrong(f"technology {technology!r} is not among [technology_scale]: {known} (45 must be there)")
        return Architecture(
            self.text("name"),
            self.number("clock_mhz"),
            technology,
            self._array(),
            {name: self._buffer(name) for name in BUFFERS},
            self.number("dram.bandwidth_bytes_per_second"),
            {name: self._unit(name) for name in self.table("units")},
            {name: self._cost("energy", name) for name in ENERGIES},
            {name: self._cost("area", name) for name in AREAS},
            {bits: self.number(f"area.element_ratio.{bits}") for bits in WIDEST},
            self.number("energy.leakage_mw_per_mm2", zero=True),
            self.number("area.buffer_efficiency"),
            technologies,
            self.source,
        )

    def _array(self) -> Array:
        dataflow = self.text("array.dataflow")
        if dataflow not in get_args(Dataflow):
            raise self.wrong(f"array.dataflow {dataflow!r} is none of {', '.join(get_args(Dataflow))}")
        sizes = ("rows", "cols", "slice_multipliers", "widest_bits", "row_port_bytes", "col_port_bytes")
        rows, cols, multipliers, widest, row_port, col_port = (self.whole(f"array.{name}") for name in sizes)
        if LANES % multipliers and multipliers % LANES:
            raise self.wrong(f"array.slice_multipliers must divide {LANES} or be a multiple of it, got {multipliers}")
        if widest not in WIDEST:
            raise self.wrong(f"array.widest_bits must be one of {', '.join(map(str, WIDEST))}, got {widest}")
        return Array(rows, cols, multipliers, widest, dataflow, row_port, col_port)  # type: ignore[arg-type]

    def _buffer(self, name: str) -> Buffer:
        return Buffer(self.whole(f"buffers.{name}.size_bytes"), self.whole(f"buffers.{name}.banks"))

    def _unit(self, name: str) -> UnitSpec:
        where = f"units.{name}"
        multiplies, adds, table = (
            self.number(f"{where}.{key}", zero=True) for key in ("multiplies", "adds", "table_bytes")
        )
        floats = self.number(f"{where}.floats", zero=True) if "floats" in self.table(where) else 0.0
        return UnitSpec(self.whole(f"{where}.lanes"), multiplies, adds, table, floats)

    def _cost(self, kind: str, name: str) -> Cost:
        where = f"{kind}.{name}"
        scale = self.text(f"{where}.scale")
        if scale not in ("logic", "none"):
            raise self.wrong(f"{where}.scale {scale!r} is neither logic nor none")
        return Cost(self.number(f"{where}.value"), scale, self.text(f"{where}.source"))

    def _technologies(self) -> dict[str, Technology]:
        found = {}
        for name in self.table("technology_scale"):
            where = f"technology_scale.{name}"
            energy = self.entry(f"{where}.energy")
            if not (isinstance(energy, list) and len(energy) == 3):
                raise self.wrong(f"{where}.energy must be three numbers")
            square, linear, constant = map(float, energy)
            volts, area = self.number(f"{where}.supply_volts"), self.number(f"{where}.area")
            found[name] = Technology(volts, (square, linear, constant), area)
        return found

    def entry(self, path: str) -> Any:
        value: Any = self.data
        self.used.add(path)
        for key in path.split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise self.wrong(f"entry {path} is missing")
            value = value[key]
        return value

    def table(self, path: str) -> Mapping[str, Any]:
        value = self.entry(path)
        if not isinstance(value, Mapping):
            raise self.wrong(f"{path} must be a table")
        return value

    def text(self, path: str) -> str:
        value = self.entry(path)
        if not isinstance(value, str):
            raise self.wrong(f"{path} must be a text, got {value!r}")
        return value

    def number(self, path: str, zero: bool = False) -> float:
        value = self.entry(path)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or (value == 0 and not zero):
            raise self.wrong(f"{path} must be a {'number from 0 on' if zero else 'positive number'}, got {value!r}")
        return float(value)

    def whole(self, path: str) -> int:
        value = self.entry(path)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(f"{path} must be a whole number from 1 on, got {value!r}")
        return value

    def wrong(self, what: str) -> PintaError:
        return PintaError(f"{self.source}: {what}")
