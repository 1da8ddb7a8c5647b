"""The process behind ``EmulatedBoard``: ``python _rp2040.py IMAGE`` serves an emulated RP2040 on a pseudo-terminal.

It prints the terminal's path. A line on its standard input pulls the RUN pin; a line answers when the board is
back on USB. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys

from rp2040py.boards import BoardSpec
from rp2040py.cli.pty_repl import PtyInteractiveRepl
from rp2040py.device import MicroPythonDevice
from rp2040py.utils.logging import LogLevel


async def serve(image: str) -> None:
    """Run until standard input ends; a failure of the emulator itself is raised."""
    device = MicroPythonDevice(board=BoardSpec(image=image), log_level=LogLevel.WARN)
    console = PtyInteractiveRepl(device.cdc, device.simulator, on_quit=device.simulator.shutdown_request.request)
    await console.start()
    await device.astart()
    device.simulator.real_io_begin()  # time of a board that idles passes as ours does, so that it takes no processor
    print(console.slave_path, flush=True)
    tasks = {asyncio.create_task(obey(device)), asyncio.create_task(watch(device))}
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await console.stop()
    device.stop()
    for task in done:
        task.result()


async def obey(device: MicroPythonDevice) -> None:
    """Reset the board at each line of standard input."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        await device.ahard_reset()
        print("back", flush=True)


async def watch(device: MicroPythonDevice) -> None:
    """Raise what stopped the emulator."""
    while device.simulator.executing:
        await asyncio.sleep(0.1)
    raise device.simulator.engine_room_error or RuntimeError("the emulator stopped")


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
