"""The errors a person can cause; the command line prints each as one line."""

from __future__ import annotations


class PicopinnError(Exception):
    """Something failed while running; exit code 1."""


class UsageError(PicopinnError, ValueError):
    """The request itself cannot be met; exit code 2."""


class DeviceGoneError(PicopinnError):
    """A device went away and did not come back."""
