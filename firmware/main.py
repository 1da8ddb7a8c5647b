"""What a board starts with: serve the host that is at the other end of the USB cable."""

import micropython

try:
    micropython.kbd_intr(-1)  # before anything else: frames hold any byte, Ctrl-C's among them
    from ppn import start

    start.serve()
finally:
    micropython.kbd_intr(3)
