"""A hard constraint's formulas as TensorFlow Lite operators, in float32."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .expression import Expression, Formulas
from .flatbuffer import Model

_CODES = {  # operators, and their options
    "sum": ("ADD", "AddOptions"),
    "product": ("MUL", "MulOptions"),
    "quotient": ("DIV", "DivOptions"),
    "power": ("POW", "PowOptions"),
    "sin": ("SIN", None),
    "cos": ("COS", "CosOptions"),
    "exp": ("EXP", "ExpOptions"),
    "log": ("LOG", None),
    "sqrt": ("SQRT", None),
}
_EVERYWHERE = {"x", "number", "sum", "product", "power", "sin", "cos"}  # finite for any coordinate
_MANY = 3  # like terms of a sum that are computed at once


def constrained(model: Model, x: int, network: int, formulas: Formulas, width: int) -> int:
    """u = offset + factor N, of points (n, width) and the network's values (n, 1)."""
    writer = _Arithmetic(model, x, width)
    u = writer.apply("product", [writer.tensor(formulas.factor), network])
    nothing = Expression("number")
    return u if formulas.offset == nothing else writer.apply("sum", [writer.tensor(formulas.offset), u])


class _Arithmetic:
    """Writes operators; ``all`` the coordinates at once, where an expression names but one."""

    def __init__(self, model: Model, x: int, width: int) -> None:
        self.model, self.x, self.width = model, x, width
        self.count = 0

    def tensor(self, expression: Expression, everywhere: bool = False) -> int:
        """(n, 1), or for a term of any coordinate, of which it is written x[0], (n, width) ``everywhere``."""
        if expression.kind == "x":
            return self.x if everywhere else self._weighted(self.x, {expression.index: 1.0})
        if expression.kind == "number":
            return self.model.constant(self._name("number"), np.full((1, 1), expression.number, np.float32))
        if expression.kind == "sum" and not everywhere:
            return self._sum(expression)
        operands = [self.tensor(part, everywhere) for part in expression.parts]
        if expression.kind == "power":
            operands.append(self.tensor(replace(expression, kind="number", parts=())))
        return self.apply(expression.kind, operands, self.width if everywhere else 1)

    def apply(self, kind: str, operands: list[int], width: int = 1) -> int:
        """An operator, or as many as join all operands."""
        code, options = _CODES[kind]
        result, *rest = operands
        for other in [[operand] for operand in rest] or [[]]:
            out = self.model.variable(self._name(kind), width, np.float32)
            result = self.model.operator(code, [result, *other], out, options)
        return result

    def _sum(self, expression: Expression) -> int:
        """Terms that differ only in coordinate and factor are one vector times a row of factors."""
        alike: dict[Expression, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        found = []
        for term in expression.parts:
            factor, rest = _split(term)
            indices = set(_indices(rest))
            if len(indices) == 1 and _kinds(rest) <= _EVERYWHERE:
                alike[_at_first(rest)][indices.pop()] += factor
            else:
                found.append(self.tensor(term))
        for shape, factors in alike.items():
            if len(factors) >= _MANY or shape.kind == "x":
                found.append(self._weighted(self.tensor(shape, everywhere=True), factors))
            else:
                found += [self.tensor(_scaled(factor, _at(shape, k))) for k, factor in factors.items()]
        return found[0] if len(found) == 1 else self.apply("sum", found)

    def _weighted(self, tensor: int, factors: dict[int, float]) -> int:
        """The sum of coordinates of (n, width) times factors, (n, 1)."""
        row: NDArray[np.float32] = np.zeros((1, self.width), np.float32)
        row[0, list(factors)] = list(factors.values())
        out = self.model.variable(self._name("weighted"), 1, np.float32)
        weights = self.model.constant(self._name("weights"), row)
        return self.model.operator("FULLY_CONNECTED", [tensor, weights], out, "FullyConnectedOptions")

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"constraint{self.count}.{kind}"


def _split(term: Expression) -> tuple[float, Expression]:
    """A number and what it multiplies."""
    if term.kind == "product" and term.parts[0].kind == "number":
        return term.parts[0].number, term.parts[1]
    return 1.0, term


def _scaled(factor: float, expression: Expression) -> Expression:
    return expression if factor == 1 else factor * expression


def _indices(expression: Expression) -> list[int]:
    own = [expression.index] if expression.kind == "x" else []
    return own + [index for part in expression.parts for index in _indices(part)]


def _kinds(expression: Expression) -> set[str]:
    return {expression.kind}.union(*map(_kinds, expression.parts))


def _at(expression: Expression, index: int) -> Expression:
    """The same of another coordinate."""
    parts = tuple(_at(part, index) for part in expression.parts)
    return replace(expression, parts=parts, index=index if expression.kind == "x" else 0)


def _at_first(expression: Expression) -> Expression:
    return _at(expression, 0)
