"""The problems that come with picopinn; write your own as a subclass of :class:`Problem`."""

from __future__ import annotations

import difflib

from ..errors import UsageError
from .allencahn1d import AllenCahn1D
from .allencahn100d import AllenCahn100D
from .base import Problem, relative_l2
from .burgers1d import Burgers1D
from .field import Condition, Constraint, Field, Readings, Target
from .heat1d_inverse import Heat1DInverse
from .heat100d import Heat100D, Heat100DHard
from .helmholtz2d import Helmholtz2D
from .hjb20d import HJB20D
from .hjb250d import HJB250D
from .poisson2d import Poisson2D
from .poisson2d_waves import Poisson2DWaves
from .poisson100d import Poisson100D
from .residual import check, linearize, parts_read
from .sinegordon100d import SineGordon100D

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

_PROBLEMS: tuple[type[Problem], ...] = (
    Poisson2D,
    Poisson2DWaves,
    Helmholtz2D,
    AllenCahn1D,
    Burgers1D,
    Heat1DInverse,
    HJB20D,
    Heat100D,
    Heat100DHard,
    Poisson100D,
    AllenCahn100D,
    SineGordon100D,
    HJB250D,
)
REGISTRY: dict[str, type[Problem]] = {cls.name: cls for cls in _PROBLEMS}


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
    close = difflib.get_close_matches(name, REGISTRY)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the problems are {', '.join(names())}"
    raise UsageError(f"problem {name!r} is unknown: {hint}")
