"""What a board starts with: serve the host that is at the other end of the USB cable."""

import micropython
from ppn import start

try:
    micropython.kbd_intr(-1)  # frames hold any byte, Ctrl-C's among them
    start.serve()
finally:
    micropython.kbd_intr(3)
