"""The problems that come with picopinn; write your own as a subclass of :class:`Problem`."""

from __future__ import annotations

import difflib

from ..errors import UsageError
from .base import Problem, relative_l2
from .field import Condition, Constraint, Field, Readings, Target
from .poisson2d import Poisson2D
from .residual import check, linearize, parts_read

__all__ = [
    "REGISTRY",
    "Condition",
    "Constraint",
    "Field",
    "Problem",
    "Readings",
    "Target",
    "check",
    "get",
    "linearize",
    "names",
    "parts_read",
    "relative_l2",
]

REGISTRY: dict[str, type[Problem]] = {cls.name: cls for cls in (Poisson2D,)}


def names() -> list[str]:
    """Names that :func:`get` knows, sorted."""
    return sorted(REGISTRY)


def get(name: str) -> type[Problem]:
    """The class of a problem.

    Raises:
        UsageError: no such problem; the message names the closest ones.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    close = difflib.get_close_matches(name, REGISTRY) or names()
    raise UsageError(f"problem {name!r} is unknown: did you mean {' or '.join(close)}?")
