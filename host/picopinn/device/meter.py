"""What a board spends on a step, for a person who watches."""

from __future__ import annotations

from .remote import Counters, RemoteDevice


class Meter:
    """Looks at a device's counters between steps.

    Attributes:
        headings: of the cells that :meth:`cells` answers.
    """

    headings = ("Mcycles/step", "kB/step")

    def __init__(self, device: RemoteDevice, step: int) -> None:
        self._device, self._step = device, step
        self._before: Counters | None = None
        self._cells = ("", "")

    def look(self, step: int) -> None:
        """Take what was spent since the last look as that of the steps since then."""
        now, steps = self._device.counters(), step - self._step
        clock_hz = self._device.session.info["clock_hz"]
        if self._before is not None and steps > 0:
            spent = now.since(self._before)
            megacycles = spent.busy_us * clock_hz / 1e12 / steps
            kilobytes = (spent.bytes_in + spent.bytes_out) / 1e3 / steps
            self._cells = f"{megacycles:.1f}" if clock_hz else "", f"{kilobytes:.1f}"
        self._before, self._step = now, step

    def cells(self) -> tuple[str, str]:
        """Megacycles that the device was busy, and bytes either way, a step; as of the last look."""
        return self._cells

    def memory(self) -> str:
        """A line on the device's memory."""
        memory = self._device.memory
        assert memory is not None  # it was configured
        cores = f"{memory.cores} core{'s' if memory.cores > 1 else ''}"
        return f"{self._device.session.name}: {memory.used:,} bytes used, {memory.left:,} left, {cores}"
