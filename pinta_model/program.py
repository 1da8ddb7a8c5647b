"""What the chip is told to run: a network's stages, half-chains, widths and streams, as CONFIGURE sends it (W3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ACTIVATIONS = ("tanh", "sine")
MODES = ("naive", "difference", "odd-even", "jet", "laplacian", "laplacian-time")
SUMMED = MODES[4:]  # whose directions share one even part


@dataclass(frozen=True)
class Chain:
    """A half-chain of cores (ranks[k], modes[k], ranks[k + 1])."""

    modes: tuple[int, ...]
    ranks: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The matrices that the cores travel as."""
        inner = zip(self.ranks[:-2], self.modes[:-1], self.ranks[1:-1], strict=True)
        return [*((before * mode, after) for before, mode, after in inner), (self.ranks[-2], self.modes[-1])]


@dataclass(frozen=True)
class Stage:
    """One matrix, applied to ``panels`` equal parts of its input."""

    rows: int
    cols: int
    panels: int
    expand: bool
    closes: bool
    chain: Chain | None


@dataclass(frozen=True)
class Program:
    """A network, its activation, stream mode and widths."""

    stages: tuple[Stage, ...]
    activation: str
    mode: str
    weights: int
    activations: int
    base: int
    gradients: int
    inputs: int

    @classmethod
    def read(cls, content: bytes) -> Program:
        """From what CONFIGURE sends (W3)."""
        count, half_chains, _, activation, mode, *widths, _ = struct.unpack_from("<HHH8B", content)
        at = 14
        heads = [struct.unpack_from("<HHHBBh", content, at + 10 * i) for i in range(count)]
        at += 10 * count
        numbers = [struct.unpack_from("<10H", content, at + 20 * i) for i in range(half_chains)]
        chains = [Chain(n[1 : 1 + n[0]], n[5 : 6 + n[0]]) for n in numbers]
        stages = [Stage(r, c, p, bool(e), bool(z), chains[k] if k >= 0 else None) for r, c, p, e, z, k in heads]
        return cls(tuple(stages), ACTIVATIONS[activation], MODES[mode], *widths)
