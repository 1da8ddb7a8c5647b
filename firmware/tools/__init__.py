"""Building what a board holds: toolchain, native modules, images. ``tasks.py`` calls these; a board never sees them."""
