"""How fast a link is."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from ppn import messages

from .session import Session


@dataclass(frozen=True)
class Latency:
    """Round trips of a message with an empty payload, in milliseconds, and bytes a second out and back at once."""

    minimum_ms: float
    median_ms: float
    p99_ms: float
    maximum_ms: float
    bytes_per_second: float


def measure(session: Session, count: int = 200) -> Latency:
    """Time ``count`` round trips one after the other, then as many of the longest payload with the window full.

    Raises:
        PicopinnError: the device does not answer.
    """
    if not session.info:
        session.connect()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        session.call(messages.ECHO)
        times.append(1e3 * (time.perf_counter() - start))
    payload = bytes(range(256)) * (session.info["payload"] // 256)
    start = time.perf_counter()
    for _ in session.stream((messages.ECHO, payload) for _ in range(count)):
        pass
    rate = count * len(payload) / (time.perf_counter() - start)
    low, middle, high, top = np.percentile(times, [0, 50, 99, 100])
    return Latency(float(low), float(middle), float(high), float(top), rate)
