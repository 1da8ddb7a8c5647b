"""An emulated board whose USB is as slow as a real one's, and whose time stands still while the computer works.

``EmulatedBoard`` (picopinn.link.emulator) moves packets as fast as its process can, and its clock runs on while the
computer thinks. Here the emulator runs within this process, and only while somebody waits for its bytes: so the time
that it counts is what a board needs for its own work and for the wire, the same in each run.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from rp2040py.boards import BoardSpec
from rp2040py.device import MicroPythonDevice
from rp2040py.utils.fifo import FIFO

from picopinn import boards, image, toolchain

PACKET = 64  # bytes, at most
_PATIENCE = 60.0  # seconds for an answer


class PacedBoard:
    """A port (picopinn.link.session.Port) of an emulated RP2040.

    Args:
        packet_us: microseconds of the board's time that a packet takes, however short, once the board is ready for it.
            The emulator lets two at a time leave a board at once, so whatever leaves takes the time of two.
    """

    def __init__(self, packet_us: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._inbox = bytearray()
        self._device = self._boot(boards.load("rp2040"))
        self._device.cdc.tx_fifo = FIFO(1 << 16)
        self._device.cdc.on_serial_data = self._receive
        self._device.mcu.usb_ctrl.read_delay_microseconds = packet_us
        self._device.mcu.usb_ctrl.write_delay_microseconds = 2 * packet_us
        self._stop()

    def _boot(self, board: boards.Board) -> MicroPythonDevice:
        contents = image.build(board, toolchain.board_firmware(board.name).read_bytes())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "board.uf2"
            path.write_bytes(contents)
            device = MicroPythonDevice(board=BoardSpec(image=str(path)))
        self._loop.run_until_complete(device.astart())
        return device

    def _stop(self) -> None:
        self._device.simulator.stop()
        self._loop.run_until_complete(asyncio.sleep(0))

    def _receive(self, data: bytes | bytearray) -> None:
        self._inbox += data
        self._device.simulator.stop()

    @property
    def microseconds(self) -> float:
        """The board's time."""
        return float(self._device.mcu.clock.nanos) / 1e3

    # ---- a port

    @property
    def in_waiting(self) -> int:
        return len(self._inbox)

    def read(self, size: int = 1) -> bytes:
        if not self._inbox:
            self._loop.run_until_complete(asyncio.wait_for(self._device.simulator.execute(), _PATIENCE))
        given = bytes(self._inbox[:size])
        del self._inbox[:size]
        return given

    def write(self, data: bytes) -> int:
        cdc = self._device.cdc
        for byte in data:
            cdc.tx_fifo.push(byte)
        cdc._flush_parked_reads()  # its own way of sending waits once more
        return len(data)

    def reset_input_buffer(self) -> None:
        self._inbox.clear()

    def close(self) -> None:
        """Nothing: the board lives as long as this object."""
