"""A hard constraint as formulas: what NumPy computes of a point, recorded, so that C, MicroPython and graphs can.

A point of :class:`Expression` goes through the problem's own code in an array of objects; NumPy asks each object for
sums, products and functions, and so it tells what would be computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..problems import Problem

FUNCTIONS = ("sin", "cos", "exp", "log", "sqrt")  # that C, MicroPython and TensorFlow Lite all have


@dataclass(frozen=True)
class Expression:
    """A number computed of a point.

    Attributes:
        kind: ``x`` (a coordinate), ``number``, ``sum``, ``product``, ``quotient``, ``power``, or one of FUNCTIONS.
        parts: what it is computed of.
        index: of a coordinate.
        number: of a number; of a power, the exponent.
    """

    kind: str
    parts: tuple[Expression, ...] = ()
    index: int = 0
    number: float = 0.0

    def __add__(self, other: object) -> Expression:
        return _sum(self, _expression(other))

    def __radd__(self, other: object) -> Expression:
        return _sum(_expression(other), self)

    def __neg__(self) -> Expression:
        return _product(_number(-1.0), self)

    def __sub__(self, other: object) -> Expression:
        return _sum(self, -_expression(other))

    def __rsub__(self, other: object) -> Expression:
        return _sum(_expression(other), -self)

    def __mul__(self, other: object) -> Expression:
        return _product(self, _expression(other))

    def __rmul__(self, other: object) -> Expression:
        return _product(_expression(other), self)

    def __truediv__(self, other: object) -> Expression:
        return _quotient(self, _expression(other))

    def __rtruediv__(self, other: object) -> Expression:
        return _quotient(_expression(other), self)

    def __pow__(self, exponent: float) -> Expression:
        if self.kind == "number":
            return _number(self.number**exponent)
        return self if exponent == 1 else Expression("power", (self,), number=float(exponent))

    def __getattr__(self, name: str) -> Callable[[], Expression]:
        if name not in FUNCTIONS:
            raise AttributeError(name)
        return lambda: Expression(name, (self,))

    def text(self) -> str:
        """In the words of C and Python, of a point ``x``."""
        parts = [part.text() for part in self.parts]
        if self.kind == "x":
            return f"x[{self.index}]"
        if self.kind == "number":
            return repr(self.number) if self.number >= 0 else f"({self.number!r})"
        if self.kind == "power":
            whole = self.number.is_integer() and 0 < self.number <= 4
            return f"({' * '.join(parts * int(self.number))})" if whole else f"pow({parts[0]}, {self.number!r})"
        sign = {"sum": " + ", "product": " * ", "quotient": " / "}.get(self.kind)
        return f"({sign.join(parts)})" if sign else f"{self.kind}({parts[0]})"


@dataclass(frozen=True)
class Formulas:
    """u = offset + factor N."""

    offset: Expression
    factor: Expression


def formulas(problem: Problem) -> Formulas | None:
    """The problem's hard constraint, or None if it has none.

    Raises:
        UsageError: it does what formulas cannot say.
    """
    point = np.array([[Expression("x", index=k) for k in range(problem.dimensions)]], dtype=object)
    if problem.constraint(np.zeros((1, problem.dimensions))) is None:
        return None
    try:
        found = problem.constraint(point)
        assert found is not None
        return Formulas(*(_expression(np.asarray(part.value)[0]) for part in (found.offset, found.factor)))
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"the hard constraint of problem {problem.name!r} cannot be exported ({error}): compute it with "
            f"+, -, *, /, ** and NumPy's {', '.join(FUNCTIONS)}"
        ) from error


def _number(value: float) -> Expression:
    return Expression("number", number=value)


def _expression(value: object) -> Expression:
    if isinstance(value, Expression):
        return value
    if isinstance(value, (int, float, np.integer, np.floating)):
        return _number(float(value))
    raise TypeError(f"it computes with {type(value).__name__}")


def _sum(a: Expression, b: Expression) -> Expression:
    if a.kind == b.kind == "number":
        return _number(a.number + b.number)
    terms = [term for part in (a, b) for term in (part.parts if part.kind == "sum" else (part,))]
    terms = [term for term in terms if term != _number(0.0)]
    return Expression("sum", tuple(terms)) if len(terms) > 1 else terms[0]


def _product(a: Expression, b: Expression) -> Expression:
    if a.kind == b.kind == "number":
        return _number(a.number * b.number)
    if _number(0.0) in (a, b):
        return _number(0.0)
    if _number(1.0) in (a, b):
        return b if a == _number(1.0) else a
    return Expression("product", (a, b))


def _quotient(a: Expression, b: Expression) -> Expression:
    if a.kind == b.kind == "number":
        return _number(a.number / b.number)
    return a if b == _number(1.0) else Expression("quotient", (a, b))
