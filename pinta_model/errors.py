"""The one error a person can cause: an input of the model that cannot be used."""

from __future__ import annotations


class PintaError(ValueError):
    """A workload, an architecture or a pair of them that cannot work; the message names the file and the entry."""
