"""Measures a board's free heap and the cycles of each kind of work, in the emulator, and writes them into its file.

Networks of many kinds train a few steps on one core. Each request's cycles are the board's own count; for every part of
a step, non-negative least squares of relative errors find what one piece of each kind of work costs (picopinn/fit.py
counts the pieces). Run it after a change of the kernels:

    python benchmarks/calibrate_board.py
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from ppn import messages

from picopinn import Estimator, Network, Solver, boards, fit
from picopinn.device.addresses import open_session
from picopinn.device.packing import Parameters
from picopinn.device.remote import Counters, RemoteDevice
from picopinn.integer import IntegerEngine
from picopinn.link.session import Request, Session
from picopinn.network import Precision, Program
from picopinn.problems import get
from picopinn.smx import blocks_of

JET = Estimator("jet")
FINITE = {q: Estimator("orthogonal", quantization=q) for q in ("naive", "difference", "odd-even")}
SUMMED = [Estimator("laplacian", directions=k) for k in (1, 2)]  # so that odd and even parts are told apart
NETWORKS: list[tuple[Network, str, Estimator]] = [
    (Network(2, hidden=64, tt=(8, 8)), "w8a8g12", JET),
    (Network(2, hidden=32, tt=None, layers=3), "w8a8g12", JET),
    (Network(2, hidden=64, tt=(4, 4, 4), rank=4, layers=2), "w8a8g12", JET),
    (Network(2, hidden=100, tt=(10, 10), rank=12, layers=2), "w8a8g12", JET),
    (Network(2, hidden=128, tt=(8, 16), rank=16, layers=2), "w8a8g12", JET),
    (Network(2, hidden=256, tt=(16, 16), layers=2, rank=4), "w8a8g12", JET),
    (Network(2, hidden=80, tt=None, layers=2), "w8a8g12", JET),
    (Network(2, hidden=48, tt=(6, 8), activation="sine"), "w8a8g12", JET),
    (Network(2, hidden=64, tt=(8, 8), contraction="sequential", layers=2), "w8a8g12", JET),
    (Network(2, hidden=64, tt=(8, 8)), "w8a12g12", JET),
    (Network(2, hidden=32, tt=None, layers=2), "w12a16g12", JET),
    (Network(2, hidden=64, tt=(8, 8), layers=2), "w16a16g16", JET),
    (Network(2, hidden=32, tt=None, layers=2), "w16a16g16", JET),
    *((Network(2, hidden=48, tt=(6, 8), layers=3), "w8a8g12", summed) for summed in SUMMED),
    *((Network(2, hidden=32, tt=None, layers=2), "w8a8g12", summed) for summed in SUMMED),
    (Network(2, hidden=48, tt=(6, 8), layers=3), "w8a8g12", FINITE["odd-even"]),
    (Network(2, hidden=32, tt=None, layers=2), "w8a8g12", FINITE["odd-even"]),
    (Network(2, hidden=48, tt=(6, 8), layers=3), "w8a8g12", FINITE["difference"]),
    (Network(2, hidden=32, tt=None, layers=2), "w8a8g12", FINITE["difference"]),
    (Network(2, hidden=48, tt=(6, 8), layers=3), "w8a8g12", FINITE["naive"]),
]
STEPS = 3  # the first runs twice
BATCH = 8  # points inside, and as many on the boundary
PARTS = {
    messages.LOAD: "load",
    messages.FORWARD: "forward",
    messages.BACKWARD: "backward",
    messages.READ: "gradients",
}


@dataclass(frozen=True)
class Observation:
    """Some work of one part, and the cycles that it took."""

    part: str
    work: Counter[str]
    cycles: float


class Watched:
    """A session that sends requests one by one and notes what the board counted for each."""

    def __init__(self, session: Session, program: Program) -> None:
        self._session, self._program = session, program
        self._end = Parameters(program).gradient_bytes
        self.info = session.info
        self.seen: list[Observation] = []
        self._carried = 0.0  # cycles of a part's first requests

    def call(self, kind: int, payload: bytes = b"") -> bytes:
        return next(self.stream([(kind, payload)]))

    def stream(self, requests: Iterable[Request]) -> Iterator[bytes]:
        for kind, payload in requests:
            before = self._counters()
            reply = self._session.call(kind, payload)
            self._note(kind, payload, reply, self._counters().since(before))
            yield reply

    def _counters(self) -> Counters:
        return RemoteDevice(self._session).counters()

    def _note(self, kind: int, payload: bytes, reply: bytes, spent: Counters) -> None:
        if kind == messages.CONFIGURE:
            return
        clock = self.info["clock_hz"] / 1e6
        kernel, beside = spent.kernel_us * clock, (spent.busy_us - spent.kernel_us) * clock
        self.seen.append(Observation("link", fit.link_work(fit.Message(kind, len(payload), len(reply))), beside))
        if kind == messages.DIRECTIONS:
            return
        if kind in (messages.FORWARD, messages.BACKWARD):
            self.seen.append(Observation(PARTS[kind], self._work(kind, payload), kernel))
            return
        self._carried += kernel  # stages are contracted while others come or go; clearing sums is a part of using them
        last = kind == messages.READ and sum(messages.read(messages.READ_HEAD, payload)) == self._end
        if kind == messages.LOAD or last:
            self.seen.append(Observation(PARTS[kind], self._work(kind, payload), self._carried))
            self._carried = 0.0

    def _work(self, kind: int, payload: bytes) -> Counter[str]:
        stages = range(len(self._program.stages))
        if kind == messages.LOAD:
            return sum((fit.load_work(self._program, n) for n in stages), Counter())
        if kind == messages.READ:
            return sum((fit.gradients_work(self._program, n) for n in stages), Counter())
        directions, count, _ = messages.read(messages.FORWARD_HEAD, payload)
        work = fit.forward_work if kind == messages.FORWARD else fit.backward_work
        return Counter({what: count * n for what, n in work(self._program, directions).items()})


def observe(session: Session, network: Network, precision: str, estimator: Estimator) -> list[Observation]:
    """A few training steps, request by request."""
    program = network.program(Precision.parse(precision), estimator.mode())
    watched = Watched(session, program)
    microbatches = 2 * blocks_of(BATCH)
    device = RemoteDevice(cast(Session, watched), microbatches=microbatches, cores=1)
    engine = IntegerEngine(network, program.precision, estimator.mode(), device=device)
    solver = Solver(get("poisson2d")(), network, estimator, steps=STEPS, batch=BATCH, engine=engine)
    solver.step()
    watched.seen.clear()  # sums that were void, and that step once more
    solver.train()
    assert device.memory is not None
    taped = device.memory.tapes >= microbatches  # else a backward runs its forward, too
    return [seen for seen in watched.seen if taped or seen.part != "backward"]


def solve(seen: list[Observation]) -> dict[str, int]:
    """Cycles of a piece of each kind of work: least squares of relative errors, none below 1."""
    kinds = sorted({kind for each in seen for kind in each.work})
    cycles = np.array([each.cycles for each in seen])
    pieces = np.array([[each.work[kind] for kind in kinds] for each in seen]) / cycles[:, None]
    scale = np.linalg.norm(pieces, axis=0)
    free = list(range(len(kinds)))
    while True:  # leave out what would count most below zero
        found = np.linalg.lstsq(pieces[:, free] / scale[free], np.ones(len(seen)), rcond=None)[0]
        if found.min() >= 0:
            break
        del free[int(found.argmin())]
    found /= scale[free]
    costs = dict.fromkeys(kinds, 1)
    return costs | {kinds[at]: max(1, round(float(cost))) for at, cost in zip(free, found, strict=True)}


def worst(seen: list[Observation], costs: dict[str, int]) -> float:
    """The largest relative error of an observation."""
    told = [sum(costs[kind] * n for kind, n in each.work.items()) / each.cycles for each in seen]
    return max(abs(each - 1) for each in told)


def largest_piece(session: Session) -> int:
    """Bytes of the tapes that a board takes when many small ones are wanted: they lie in one piece."""
    device = RemoteDevice(session, microbatches=1000, cores=1)
    device.configure(Network(2, hidden=4, tt=None, layers=1).program(Precision(), "jet"), 2)
    assert device.memory is not None
    return messages.tape_bytes(tuple(device.memory.regions.values()), device.memory.tapes)


def write(name: str, heap: int, piece: int, costs: dict[str, dict[str, int]]) -> None:
    """Into the board's file: the heap in its place, the cycles at the end."""
    path = boards.firmware_folder() / "boards" / f"{name}.toml"
    text = re.sub(r"(?m)^heap_bytes = [\d_]+", f"heap_bytes = {heap:_}", path.read_text())
    text = re.sub(r"(?m)^piece_bytes = [\d_]+", f"piece_bytes = {piece:_}", text)
    text = re.sub(r"(?ms)^# Cycles of one piece.*", "", text).rstrip() + "\n\n"
    text += (
        "# Cycles of one piece of each kind of work, by benchmarks/calibrate_board.py (picopinn/fit.py counts them)\n"
    )
    for part, of in costs.items():
        text += f"[cycles.{part}]\n" + "".join(f"{kind} = {cost}\n" for kind, cost in of.items()) + "\n"
    path.write_text(text.rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="measure a board's heap and what each kind of work costs it")
    parser.add_argument("--board", default="rp2040")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    parser.add_argument("--verbose", action="store_true", help="print each observation, too")
    options = parser.parse_args()
    session = open_session(f"emulated:{options.board}")
    heap = session.connect()["free"]
    piece = largest_piece(session)
    print(f"{heap} bytes free, {piece} in one piece")
    seen: list[Observation] = []
    for network in NETWORKS:
        seen += observe(session, *network)
    session.close()
    costs = {}
    for part in ("load", "forward", "backward", "gradients", "link"):
        of = [each for each in seen if each.part == part]
        costs[part] = solve(of)
        for each in of if options.verbose else ():
            told = sum(costs[part][kind] * n for kind, n in each.work.items())
            print(f"{told / each.cycles - 1:7.1%} of {each.cycles:12,.0f}  {dict(each.work)}")
        print(f"{part:10} {len(of):4} observations, worst error {worst(of, costs[part]):.1%}, {costs[part]}")
    if not options.dry_run:
        write(options.board, heap, piece, costs)


if __name__ == "__main__":
    main()
