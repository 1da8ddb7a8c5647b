"""A problem's residual: which parts of u it reads, its derivatives by complex steps, and whether it can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .base import Problem
from .field import Constraint, Field, Floats

_STEP = 1e-20  # of the complex step: its square is lost against any residual worth training
_TOGETHER = 1 << 15  # numbers of u that are moved at once
_CHECK_STEP = 1e-4  # of the finite steps it is compared with


def linearize(problem: Problem, x: Floats, u: Field) -> tuple[Floats, Field]:
    """Residual (n,) at points x (n, D) and its partial derivatives by every part of u, exact to rounding.

    One complex step (Squire and Trapp, SIAM Review 1998) a component: the residual is evaluated at so many copies of
    the points, together while they are few.

    Raises:
        UsageError: the residual has the wrong shape, or is not finite where u is.
    """
    components = _components(u)
    if not components:
        return np.array(_checked(problem, x, u, problem.residual(x, u)).real), Field()
    together = max(1, _TOGETHER // (len(components) * len(x)))
    parts = (components[first : first + together] for first in range(0, len(components), together))
    results = [_stepped(problem, x, u, some) for some in parts]
    steps = (results[0] if len(results) == 1 else np.concatenate(results)).imag / _STEP
    return np.array(results[-1][0].real), _assembled(components, steps)


@dataclass(frozen=True)
class _Component:
    """One number of u a point: a part, and the gradient's column or the unknown's name."""

    part: str
    of: int | str | None = None


def _components(u: Field) -> list[_Component]:
    result = []
    for part, value in vars(u).items():
        if part == "gradient":
            result += [_Component(part, column) for column in range(value.shape[1])]
        elif part == "unknowns":
            result += [_Component(part, name) for name in value]
        else:
            result.append(_Component(part))
    return result


def _stepped(problem: Problem, x: Floats, u: Field, components: Sequence[_Component]) -> NDArray[Any]:
    """The residual (m, n) after an imaginary step of each of m components of u."""
    count, n = len(components), len(x)
    moved = _copies(u, count)
    for copy, component in enumerate(components):
        _of(moved, component)[copy * n : (copy + 1) * n] += 1j * _STEP
    copies = _repeated(x, count)
    return _checked(problem, copies, moved, problem.residual(copies, moved)).reshape(count, n)


def _copies(u: Field, count: int) -> Field:
    """All parts, complex, so many times one after the other."""
    parts: dict[str, Any] = {}
    for name, part in vars(u).items():
        if name == "unknowns":
            parts[name] = {key: np.tile(value.astype(complex), count) for key, value in part.items()}
        else:
            parts[name] = _repeated(part.astype(complex), count)
    return Field(**parts)


def _repeated(array: NDArray[Any], count: int) -> NDArray[Any]:
    return array if count == 1 else np.concatenate([array] * count)


def _of(u: Field, component: _Component) -> NDArray[Any]:
    """A view of one component, (n,)."""
    part = getattr(u, component.part)
    if component.part == "gradient":
        part = part[:, component.of]
    elif component.part == "unknowns":
        part = part[component.of]
    view: NDArray[Any] = part
    return view


def _assembled(components: Sequence[_Component], steps: Floats) -> Field:
    """Derivatives (m, n) of m components as a field of them."""
    partials: dict[str, Any] = {}
    columns = []
    for component, row in zip(components, steps, strict=True):
        if component.part == "unknowns":
            partials.setdefault("unknowns", {})[component.of] = row
        elif component.part == "gradient":
            columns.append(row)
        else:
            partials[component.part] = row
    if columns:
        partials["gradient"] = np.stack(columns, axis=1)
    return Field(**partials)


def _checked(problem: Problem, x: Floats, u: Field, residual: Any) -> NDArray[Any]:
    """The residual if it can be one. A u that diverged is the training's error, not the residual's."""
    result = _shaped(problem, x, residual)
    finite = np.isfinite(result)
    if not finite.all() and all(np.isfinite(_of(u, component)).all() for component in _components(u)):
        at = np.array2string(x[np.argmin(finite)], precision=4, threshold=6, separator=", ")
        raise UsageError(
            f"the residual of problem {problem.name!r} is not finite at x = {at}: look there for a division by zero, "
            "a logarithm or a power of a negative number"
        )
    return result


def _shaped(problem: Problem, x: Floats, residual: Any) -> NDArray[Any]:
    result: NDArray[Any] = np.asarray(residual)
    if result.shape != (len(x),):
        raise UsageError(
            f"the residual of problem {problem.name!r} has shape {result.shape} for {len(x)} points: "
            f"return one number a point, shape ({len(x)},)"
        )
    return result


class _Recorder(Field):
    """A random field whose parts come to be when they are read."""

    def __init__(self, problem: Problem, n: int) -> None:
        super().__init__()
        self.__dict__["_missing"] = _random(problem, n)

    def __getattr__(self, name: str) -> Any:
        missing: dict[str, Any] = self.__dict__["_missing"]
        if name not in missing:
            return super().__getattr__(name)
        self.__dict__[name] = missing.pop(name)
        return self.__dict__[name]


def _random(problem: Problem, n: int) -> dict[str, Any]:
    """All parts that a residual of this problem may read."""
    rng = np.random.default_rng(0)
    parts: dict[str, Any] = {name: rng.random(n) for name in ("value", "laplacian", "gradient_squared")}
    parts["gradient"] = rng.random((n, problem.dimensions))
    parts["unknowns"] = {name: np.full(n, value) for name, value in problem.unknowns.items()}
    if problem.time:
        parts["time"] = rng.random(n)
    return parts


def parts_read(problem: Problem) -> frozenset[str]:
    """The parts of u that the residual reads, found by calling it once."""
    return frozenset(vars(_recorded(problem, problem.interior(np.random.default_rng(0), 1))))


def _recorded(problem: Problem, x: Floats) -> Field:
    """A random field of the parts that the residual reads at points x."""
    recorder = _Recorder(problem, len(x))
    _shaped(problem, x, problem.residual(x, recorder))
    return Field(**{name: part for name, part in vars(recorder).items() if name != "_missing"})


def check(problem: Problem) -> None:
    """Try every part of a problem that training uses, on a few points.

    Raises:
        UsageError: which part is missing, has what wrong shape, or cannot be differentiated.
    """
    if not isinstance(problem, Problem):
        raise UsageError(f"a problem is an instance of a Problem subclass, got {problem!r}: call the class, Mine()")
    dimensions = getattr(problem, "dimensions", 0)
    if not isinstance(dimensions, int) or dimensions < 1:
        raise UsageError(f"problem {problem.name!r} needs dimensions, a positive integer: dimensions = 2 in its class")
    if problem.time and dimensions < 2:
        raise UsageError(f"problem {problem.name!r} has time but no space: dimensions counts both, 2 or more")
    rng = np.random.default_rng(0)
    count = dimensions + 3  # unlike D, so that swapped axes show
    inner = problem.interior(rng, count)
    _check_shape(problem, "interior", inner, (count, dimensions))
    for condition in problem.conditions():
        what = "edge" if condition.name == "boundary" else f"condition {condition.name!r}"
        x, values = condition.draw(rng, count)
        _check_shape(problem, what, x, (count, dimensions))
        _check_shape(problem, condition.name, values(x), (count,))
    constraint = problem.constraint(inner)
    if constraint is not None:
        _check_constraint(problem, inner, constraint)
    _check_derivatives(problem, inner, rng)


def _check_shape(problem: Problem, what: str, value: Any, shape: tuple[int, ...]) -> None:
    if np.shape(value) != shape:
        raise UsageError(f"{what} of problem {problem.name!r} returns shape {np.shape(value)}, expected {shape}")


def _check_constraint(problem: Problem, x: Floats, constraint: Constraint) -> None:
    """Compare the derivatives a constraint states with finite steps of its values."""
    space = problem.space
    for what in ("offset", "factor"):
        stated: Field = getattr(constraint, what)
        for part, shape in (("value", x.shape[:1]), ("gradient", x.shape), ("laplacian", x.shape[:1])):
            _check_shape(problem, f"the constraint's {what}.{part}", getattr(stated, part), shape)
        gradient, second = np.empty(x.shape), np.empty(x.shape)
        for axis in range(x.shape[1]):
            step = _CHECK_STEP * np.eye(x.shape[1])[axis]
            plus, minus = (_constraint_value(problem, x + sign * step, what) for sign in (1, -1))
            gradient[:, axis] = (plus - minus) / (2 * _CHECK_STEP)
            second[:, axis] = ((plus - stated.value) + (minus - stated.value)) / _CHECK_STEP**2
        scale = 1 + np.abs(stated.value).max()
        for part, found in (("gradient", gradient), ("laplacian", second[:, space].sum(axis=1))):
            given = getattr(stated, part)
            if not np.allclose(given, found, rtol=1e-3, atol=1e-5 * scale * (1 + len(second[0]))):
                raise UsageError(
                    f"the constraint's {what}.{part} of problem {problem.name!r} is not the {part} of its value "
                    "(finite steps differ): derive it again"
                )


def _constraint_value(problem: Problem, x: Floats, what: str) -> Floats:
    constraint = problem.constraint(x)
    assert constraint is not None, "a constraint holds at all points or at none"
    field: Field = getattr(constraint, what)
    return field.value


def _check_derivatives(problem: Problem, x: Floats, rng: np.random.Generator) -> None:
    """Compare a complex with a finite step, because np.abs and the like drop the imaginary part without a word."""
    start = _recorded(problem, x)
    components = _components(start)
    if not components:
        return
    d = rng.random((len(components), len(x)))

    def along(step: complex) -> NDArray[Any]:
        moved = _copies(start, 1)
        for component, slope in zip(components, d, strict=True):
            _of(moved, component)[:] += step * slope
        if not isinstance(step, complex):
            moved = _real(moved)
        return _shaped(problem, x, problem.residual(x, moved))

    try:
        exact = along(1j * _STEP).imag / _STEP
    except TypeError as error:
        raise UsageError(
            f"the residual of problem {problem.name!r} fails on complex numbers, by which it is differentiated "
            f"({error}): use analytic NumPy functions of u"
        ) from error
    plus, minus = along(_CHECK_STEP), along(-_CHECK_STEP)
    finite = (plus - minus) / (2 * _CHECK_STEP)
    known = np.isfinite(finite)  # these random u may lie outside the residual's domain
    rounding = 1e-14 / _CHECK_STEP * np.abs(plus[known])
    if not (np.abs(exact - finite)[known] <= 1e-3 * np.abs(finite[known]).max(initial=0.0) + rounding).all():
        raise UsageError(
            f"the residual of problem {problem.name!r} is not analytic in u (a complex and a finite step differ): "
            "replace np.abs, np.real, np.conj or casts of u"
        )


def _real(u: Field) -> Field:
    """The real parts."""
    parts: dict[str, Any] = dict(vars(u))
    if "unknowns" in parts:
        parts["unknowns"] = {name: value.real for name, value in parts["unknowns"].items()}
    return Field(**{name: part if name == "unknowns" else part.real for name, part in parts.items()})
