"""Where tensors live: which fit on chip, how many microbatches are merged, what is kept off chip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .architecture import BUFFERS, Architecture
from .array import SUM_BYTES, Count
from .errors import PintaError
from .workload import Section, Tensor, Workload

OFF_CHIP = "dram"
LEVELS = (*BUFFERS, OFF_CHIP)


@dataclass(frozen=True)
class Placement:
    """A place for every tensor.

    Attributes:
        level: the buffer of each tensor, ``dram``, or empty for a wire.
        merged: microbatches of each section that run at once.
    """

    level: Mapping[str, str]
    merged: Mapping[str, int]

    def passes(self, section: Section) -> list[tuple[int, int]]:
        """(microbatches at once, how often) for a section: full passes and a shorter last one."""
        size = self.merged[section.name]
        full, rest = divmod(section.repeat, size)
        return [(size, full)] * (full > 0) + [(rest, 1)] * (rest > 0)


def place(workload: Workload, design: Architecture) -> Placement:
    """Put step tensors into their buffers in the order of the file, then as many microbatches as fit.

    A step tensor that does not fit there takes room from the activations, or goes off chip; of a microbatch that does
    not fit alone, the largest tensors go off chip.
    """
    level = {tensor.name: "" for tensor in workload.tensors}
    room = {name: float(design.buffers[name].size_bytes) for name in BUFFERS}
    for tensor in workload.tensors:
        if tensor.scope == "step" and tensor.store != "wire":
            level[tensor.name] = _reserve(tensor, room)
    merged = {}
    for section in workload.sections:
        merged[section.name] = _microbatches(workload, section, room["activation"], level)
    return Placement(level, merged)


def peak_bytes(workload: Workload, section: Section, level: Mapping[str, str] | None = None) -> float:
    """Most bytes of microbatch tensors alive at once in one microbatch; those placed off chip do not count."""
    alive = [0.0] * len(section.operations)
    for name, (first, last) in workload.lifetimes(section).items():
        if level is not None and level[name] == OFF_CHIP:
            continue
        for index in range(first, last + 1):
            alive[index] += workload.by_name[name].size_bytes
    return max(alive, default=0.0)


def check_tiles(workload: Workload, design: Architecture) -> None:
    """Refuse a design that cannot hold two steps of operands.

    Raises:
        PintaError: the message names the buffer and both sizes.
    """
    rows, cols = design.array.rows, design.array.cols
    for name, need in tile_bytes(workload, rows, cols).items():
        have = design.buffers[name].size_bytes
        if need > have:
            raise PintaError(
                f"{design.source}: buffers.{name}.size_bytes = {have} is too small for one tile of "
                f"{workload.source}: a {rows} x {cols} grid needs {need:.0f}"
            )


def tile_bytes(workload: Workload, rows: Count, cols: Count) -> dict[str, Count]:
    """Least size of each buffer: two steps of operands, and the sums of the whole grid."""
    widest = max((t.block_bytes for t in workload.tensors if t.store == "smx"), default=0.0)
    return {"activation": 2 * rows * widest, "weight": 2 * cols * widest, "gradient": rows * cols * SUM_BYTES}


def _reserve(tensor: Tensor, room: dict[str, float]) -> str:
    if tensor.store == "float32":
        return OFF_CHIP  # masters and moments: read and written once a step
    for name in ("weight" if tensor.store == "smx" else "gradient", "activation"):
        if tensor.size_bytes <= room[name]:
            room[name] -= tensor.size_bytes
            return name
    return OFF_CHIP


def _microbatches(workload: Workload, section: Section, room: float, level: dict[str, str]) -> int:
    """How many microbatches run at once; notes the place of their tensors."""
    lifetimes = workload.lifetimes(section)
    stored = [workload.by_name[name] for name in lifetimes if workload.by_name[name].store != "wire"]
    level.update({tensor.name: "activation" for tensor in stored})
    for tensor in sorted(stored, key=lambda tensor: -tensor.size_bytes):
        if peak_bytes(workload, section, level) <= room:
            break
        level[tensor.name] = OFF_CHIP
    peak = peak_bytes(workload, section, level)
    return section.repeat if peak == 0 else max(1, min(section.repeat, math.floor(room / peak)))
