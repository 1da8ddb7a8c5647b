"""What training takes on a board, told before it is flashed.

Memory is to the byte: regions are what the board's own C answers, and how they are used its own Python. Cycles are
counts of work times the cycles of one piece of it, which stand in the board's file (benchmarks/calibrate_board.py
measures them). The messages of a step are those that a RemoteDevice sends if directions are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from ppn import messages
from rich.table import Table

from . import describe
from .boards import Board
from .device.base import Rows, Scaling
from .device.packing import program_bytes
from .device.remote import RemoteDevice
from .errors import UsageError
from .link.session import Request, Session
from .network import DEFAULT_PRECISION, SUMMED, Chain, Program, stream_count
from .settings import FLOAT, Settings
from .smx import BLOCK, blocks_of


@dataclass(frozen=True)
class Memory:
    """Bytes on a board: of each region, ``used`` in all, of ``heap``; tapes and cores that there is room for."""

    regions: dict[str, int]
    used: int
    heap: int
    tapes: int
    cores: int


def memory(program: Program, directions: int, board: Board, microbatches: int, cores: int) -> Memory:
    """What a board will answer to CONFIGURE.

    Args:
        directions: the most of a batch.
        microbatches: of a step, four points each.
        cores: the most to use.

    Raises:
        UsageError: nobody has measured the board, it has no room, or no device takes such a program.
    """
    from .kernels import board_sizes  # only this needs the compiled kernels

    if board.heap_bytes is None or board.piece_bytes is None:
        raise UsageError(f"nobody has measured the memory of a {board.title} yet: choose rp2040")
    sizes = board_sizes(program_bytes(program, directions))
    used, tapes, cores = messages.plan(sizes, board.heap_bytes, microbatches, min(cores, board.cores))
    while tapes > cores and messages.tape_bytes(sizes, tapes) > board.piece_bytes:
        tapes -= 1  # as the board does, which wants them in one piece
    used = messages.used(sizes, tapes, cores)
    if used > board.heap_bytes:
        free = f"{used:,} bytes needed, {board.heap_bytes:,} are free"
        raise UsageError(f"does not fit a {board.title}: {free}: choose a smaller --hidden, --rank or --directions")
    return Memory(dict(zip(messages.REGIONS, sizes, strict=True)), used, board.heap_bytes, tapes, cores)


def training(settings: Settings, board: Board, cores: int | None = None) -> tuple[Memory, Cycles | None]:
    """What a board gives to training with these settings, and what a step takes; on all its cores by default.

    Raises:
        UsageError: as :func:`memory`, or the settings are of floats.
    """
    if settings.precision == FLOAT:
        raise UsageError(f"a board computes in integers, not in {FLOAT}: choose widths such as {DEFAULT_PRECISION}")
    program, count = describe.program(settings)
    inside, outside = settings.microbatches()
    found = memory(program, count, board, inside + outside, cores or board.cores)
    passes = [(inside, count), (outside, 0)] if outside else [(inside, count)]
    return found, cycles(program, passes, board, found)


@dataclass(frozen=True)
class Message:
    """A request of a step and its reply: bytes of both payloads; microbatches and directions, where it is about any."""

    kind: int
    request: int
    reply: int
    microbatches: int = 0
    directions: int = 0


def step_messages(program: Program, passes: Iterable[tuple[int, int]]) -> list[Message]:
    """All messages of a training step; ``passes``: microbatches and directions of each."""
    passes = list(passes)
    tally = _Tally(program)
    device = RemoteDevice(cast(Session, tally))
    device.configure(program, max(directions for _, directions in passes))
    tally.told.clear()
    device.load(_zeros(sum(tensor.blocks for tensor in program.tensors)))
    own = [stream_count("naive", directions) if program.mode == "naive" else 1 for _, directions in passes]
    batches = [
        (
            _zeros(count, rows, program.stages[0].in_blocks),
            _zeros(directions, program.stages[0].in_blocks) if directions else None,
            _zeros(count, stream_count(program.mode, directions), program.stages[-1].out_blocks),
        )
        for (count, directions), rows in zip(passes, own, strict=True)
    ]
    for points, along, _ in batches:
        device.forward(points, along, keep=True)
    device.begin(Scaling(np.zeros(accumulators(program), np.int16), 0), 0, 0)
    for points, along, cotangents in batches:
        device.backward(points, along, cotangents, 0)
    device.gradients()
    return tally.told


def accumulators(program: Program) -> int:
    """One a stage matrix and one a bias."""
    return sum(1 + stage.closes for stage in program.stages)


def _zeros(*shape: int) -> Rows:
    return Rows(np.zeros((*shape, BLOCK * BLOCK), np.int16), np.zeros(shape, np.int8))


class _Tally:
    """In place of a session: notes what is sent, answers zeros of the right length."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.info = {"payload": messages.PAYLOAD}
        self.told: list[Message] = []

    def call(self, kind: int, payload: bytes = b"") -> bytes:
        return next(self.stream([(kind, payload)]))

    def stream(self, requests: Iterable[Request]) -> Iterator[bytes]:
        for kind, payload in requests:
            count = directions = 0
            if kind in (messages.FORWARD, messages.BACKWARD):
                directions, count, _ = messages.read(messages.FORWARD_HEAD, payload)
            reply = self._reply(kind, payload, count * stream_count(self._program.mode, directions))
            self.told.append(Message(kind, len(payload), reply, count, directions))
            yield bytes(reply)

    def _reply(self, kind: int, payload: bytes, rows: int) -> int:
        flags, columns = messages.size(messages.FLAGS_HEAD), self._program.outputs
        if kind == messages.FORWARD:
            return flags + rows * (BLOCK * columns * 4 + blocks_of(columns) * 2)
        if kind == messages.READ:
            return flags + messages.read(messages.READ_HEAD, payload)[1]
        fixed = {
            messages.CONFIGURE: messages.size(messages.PLANNED_HEAD),
            messages.WRITE: 0,
            messages.BEGIN: 0,
            messages.GRADIENTS: 0,
        }
        return fixed.get(kind, flags)


# ---- work of the kernels: how often what is done

FIFO = 256  # bytes that a board's USB takes at once
SPREAD = 16  # blocks of a row that a Cortex-M0+ lays out once, and not again for every product
NARROW = 30  # bits of two mantissas whose product needs no 64 bits


def forward_work(program: Program, directions: int) -> Counter[str]:
    """One microbatch forward: block products by class, rows and their blocks, columns of activations."""
    work: Counter[str] = Counter()
    packed = _packed(program)
    for number, stage in enumerate(program.stages):
        inner, outer = blocks_of(stage.inputs), blocks_of(stage.outputs)
        for stream in range(stream_count(program.mode, directions)):
            bits = _bits(program, number, stream, directions)
            rows = stage.panels
            if bits:
                kind = "packed" if packed and bits <= 8 else _class(bits + program.precision.weights)
                work[kind] += rows * inner * outer
                work["spread"] += rows * inner * (1 if inner <= SPREAD else outer)
            work["row"] += rows
            work["block"] += rows * outer
        work["stage"] += 1
        if stage.closes and number + 1 < len(program.stages):
            work.update(_columns(program, program.activation, stage.out_blocks, directions))
    return work


def backward_work(program: Program, directions: int) -> Counter[str]:
    """One microbatch backward: outer products, products, rows and their blocks, columns of activations."""
    work: Counter[str] = Counter()
    bits, streams = program.precision, stream_count(program.mode, directions)
    for number, stage in enumerate(program.stages):
        inner, outer = blocks_of(stage.inputs), blocks_of(stage.outputs)
        for stream in range(streams):
            if width := _bits(program, number, stream, directions):
                work[f"outer_{_class(width + bits.gradients)}"] += stage.panels * inner * outer
                work["outer_row"] += stage.panels * (outer if not stage.expand else inner)
        work["stage"] += 1
        if number == 0:
            continue
        pairs = stage.panels * inner * outer
        work[_class(bits.gradients + bits.weights)] += streams * pairs
        work["spread"] += streams * (stage.panels * outer if outer <= SPREAD else pairs)
        work["row"] += streams * stage.panels
        work["block"] += streams * stage.panels * inner
        if program.stages[number - 1].closes:
            work.update(_columns(program, "base", stage.in_blocks, directions))
    return work


def load_work(program: Program, number: int) -> Counter[str]:
    """A stage's parameters, loaded and contracted: a product a core."""
    return _parameter_work(program, number, 1)


def gradients_work(program: Program, number: int) -> Counter[str]:
    """A stage's sums, cleared, contracted back, two products a core, and packed."""
    return _parameter_work(program, number, 2)


def _parameter_work(program: Program, number: int, products: int) -> Counter[str]:
    stage = program.stages[number]
    work = Counter({"stage": 1, "block": _parameter_blocks(program, number), "matrix": stage.matrix_blocks})
    if stage.chain is not None:
        work.update(_contraction(program.chains[stage.chain], products))
    return work


def _parameter_blocks(program: Program, number: int) -> int:
    return sum(tensor.blocks for tensor in program.tensors if tensor.stage == number)


def _contraction(chain: Chain, products: int) -> Counter[str]:
    """Block products of SMX(16) and elements that change their place."""
    work: Counter[str] = Counter()
    rest = 1
    for k in reversed(range(len(chain.modes))):
        if k + 1 < len(chain.modes):
            rows, columns = chain.matrix_shape(k)
            blocks = blocks_of(rows) * blocks_of(rest)
            work["product"] += products * blocks * blocks_of(columns)
            work["moved"] += blocks
        rest *= chain.modes[k]
    return work


def _packed(program: Program) -> bool:
    """Whether a Cortex-M0+ keeps matrices packed, two mantissas a word (plan.c)."""
    from .kernels import Plan

    return bool(Plan(program, 0).net.places[0].pairs)


def _bits(program: Program, number: int, stream: int, directions: int) -> int:
    """Mantissa width of a stage's input; 0 for a row of zeros."""
    bits = program.precision
    if number:
        return bits.base if stream == 0 and program.mode != "naive" else bits.activations
    if program.mode in SUMMED:
        return 0 if stream > directions else bits.inputs
    even = stream > 0 and stream % 2 == 0 and program.mode in ("jet", "odd-even")
    return 0 if even else bits.inputs


def _class(bits: int) -> str:
    return "narrow" if bits <= NARROW else "wide" if bits == NARROW + 2 else "odd"


def _columns(program: Program, base: str, blocks: int, directions: int) -> Counter[str]:
    """Block columns of an activation: of ``base`` streams, and of what each mode does for a direction."""
    if program.mode == "naive":
        return Counter({base: blocks * stream_count(program.mode, directions)})
    if program.mode in SUMMED:
        return Counter({base: blocks, "odd": blocks * directions, "even": blocks * (directions > 0)})
    return Counter({base: blocks, program.mode: blocks * directions})


# ---- cycles


@dataclass(frozen=True)
class Cycles:
    """Of a training step: in kernels, and all that the board's counters call busy; bytes and messages either way."""

    kernels: float
    busy: float
    nbytes: int
    messages: int


def cycles(program: Program, passes: list[tuple[int, int]], board: Board, memory: Memory) -> Cycles | None:
    """A step, as ``Counters.busy_us`` will tell; None where a kind of its work was not measured.

    ``passes`` are as in :func:`step_messages`. A step that is repeated for its gradients' scale takes more.
    """
    if board.cycles is None:
        return None
    told = step_messages(program, passes)
    try:
        kernels = _kernel_cycles(program, told, board.cycles, memory)
        link = sum(_cost(board.cycles["link"], link_work(message)) for message in told)
    except KeyError:
        return None
    nbytes = sum(message.request + message.reply for message in told)
    return Cycles(kernels, kernels + link, nbytes, len(told))


def kernel_cycles(program: Program, passes: list[tuple[int, int]], board: Board) -> float:
    """Of a step in kernels, were the board's memory without limits: every tape kept, all its cores at work.

    For networks that do not fit a board; ``passes`` are as in :func:`step_messages`.

    Raises:
        UsageError: nobody has measured the board.
    """
    from .kernels import board_sizes  # as above

    if board.cycles is None:
        raise UsageError(f"nobody has measured the cycles of a {board.title} yet: choose rp2040")
    kinds = (messages.FORWARD, messages.BACKWARD)
    told = [Message(kind, 0, 0, *batch) for kind in kinds for batch in passes]
    tapes = sum(count for count, _ in passes)
    most = max(directions for _, directions in passes)
    regions = dict(zip(messages.REGIONS, board_sizes(program_bytes(program, most)), strict=True))
    return _kernel_cycles(program, told, board.cycles, Memory(regions, 0, 0, tapes, board.cores))


def link_work(message: Message) -> Counter[str]:
    """What a message takes beside the kernels; a long reply waits for the host to make room."""
    return Counter({"message": 1, "byte": message.reply, "waiting": max(0, message.reply - FIFO)})


def _cost(costs: dict[str, int], work: Counter[str]) -> float:
    return sum(costs[kind] * count for kind, count in work.items())


def _kernel_cycles(program: Program, told: list[Message], costs: dict[str, dict[str, int]], memory: Memory) -> float:
    total = 0.0
    again = iter(_forwards_again(told, _tapes(program, memory)))
    for message in told:
        share = -(-message.microbatches // memory.cores)  # of the first core, which has the most
        if message.kind == messages.FORWARD:
            total += share * _cost(costs["forward"], forward_work(program, message.directions))
        elif message.kind == messages.BACKWARD:
            repeated = next(again)
            most = max(sum(repeated[:share]), sum(repeated[share:]))
            total += share * _cost(costs["backward"], backward_work(program, message.directions))
            total += most * _cost(costs["forward"], forward_work(program, message.directions))
    for part, work in (("load", load_work), ("gradients", gradients_work)):
        shares = [0.0] * memory.cores
        for number in range(len(program.stages)):
            shares[number % memory.cores] += _cost(costs[part], work(program, number))
        total += max(shares)
    return total


@dataclass(frozen=True)
class _Tapes:
    """Bytes of a tape with directions and without, of all tapes, and of all but the spare ones."""

    full: int
    single: int
    end: int
    spare: int


def _tapes(program: Program, memory: Memory) -> _Tapes:
    from .kernels import board_sizes

    full = memory.regions["tape"]
    single = board_sizes(program_bytes(program, 0))[messages.REGIONS.index("tape")]
    return _Tapes(full, single, full * memory.tapes, full * (memory.tapes - memory.cores))


def _forwards_again(told: list[Message], tapes: _Tapes) -> list[list[bool]]:
    """Of each BACKWARD, the microbatches that have no tape; as firmware/natmod/solver.c gives them."""
    lies: list[list[int | None]] = []  # where the tape of each microbatch ends, by batch
    at = 0

    def free_spare() -> int:
        for batch in lies:
            batch[:] = [end if end is not None and end <= tapes.spare else None for end in batch]
        return max((end for batch in lies for end in batch if end is not None), default=0)

    for message in (each for each in told if each.kind == messages.FORWARD):
        size, end = tapes.full if message.directions else tapes.single, tapes.end
        if message.microbatches * size > end - at:
            at, end = free_spare(), tapes.spare
        batch: list[int | None] = []
        for _ in range(message.microbatches):
            fits = at + size <= end
            at += size if fits else 0
            batch.append(at if fits else None)
        lies.append(batch)
    again = []
    for batch in lies:
        if None in batch:
            free_spare()
        again.append([end is None for end in batch])
    return again


def table(memory: Memory, step: Cycles | None, board: Board) -> Table:
    """The regions and what they come to, parameters passing through the memory of the tapes; then a step."""
    result = Table()
    result.add_column(f"on a {board.title}")
    result.add_column("", justify="right")
    regions, cores = dict(memory.regions), memory.cores
    tapes = messages.tape_bytes(tuple(regions.values()), memory.tapes)
    for region in ("parameters", "tape"):
        del regions[region]
    for region, size in regions.items():
        times = cores if region in ("gradients", "scratch", "numbers") else 1
        result.add_row(region if times == 1 else f"{region} x {times}", f"{size * times:,} bytes")
    result.add_row(f"tape x {memory.tapes}", f"{tapes:,} bytes")
    if cores > 1:
        result.add_row("stack of the second core", f"{messages.STACK:,} bytes")
    result.add_section()
    result.add_row(f"used by {cores} core{'s' if cores > 1 else ''}", f"{memory.used:,} bytes")
    result.add_row("left", f"{memory.heap - memory.used:,} bytes")
    result.add_section()
    _add_step(result, step, board)
    return result


def _add_step(result: Table, step: Cycles | None, board: Board) -> None:
    if step is None:
        result.add_row("a training step", "not measured")
        return
    result.add_row("a training step", f"{step.busy / 1e6:.1f} Mcycles, {step.busy / board.clock_hz * 1e3:.0f} ms")
    result.add_row("of that in kernels", f"{step.kernels / 1e6:.1f} Mcycles")
    result.add_row("its messages", f"{step.messages}, {step.nbytes / 1e3:.1f} kB")
