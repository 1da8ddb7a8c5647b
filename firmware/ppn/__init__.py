"""What a board runs, in MicroPython; the host imports the same codec of frames and messages."""
