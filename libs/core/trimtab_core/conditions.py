"""Conditions on a row, such as `payment == 'card' and (mph < 80 or mph is null)`.

A view counts the events that meet its `where`; a contract refuses the rows that break a
rule. Compiled once and held against columns. A comparison with a null is neither true
nor false, nor is its negation: a row whose field is null neither meets `mph < 80` nor
breaks it; only `is null` sees it. Negations are moved inwards when a condition is
compiled, so that a mask says at once where it is true.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.syntax import fault_at, name_of, one_line, tree

Mask = NDArray[np.bool_]
Met = Callable[[Any], Mask]
"""Where `columns.Columns` meet a condition, or surely do not meet it."""

_EXAMPLE: Final = "write a condition such as payment == 'card' and mph < 80"
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
}
_WORDS: dict[str, float | None] = {"true": 1.0, "True": 1.0, "false": 0.0, "False": 0.0, "null": None}
_KINDS = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition."""

    fields: tuple[str, ...]
    """Those that it reads."""
    met: Met
    """Where it is true, of columns that hold its fields."""
    broken: Met
    """Where it is false."""
    compared: tuple[tuple[str, str], ...]
    """The pairs of fields that it compares with one another."""


def compile_condition(text: str, types: Mapping[str, str] | None = None) -> Condition:
    """Return the condition in a text, over fields of the types that a contract states.

    Without `types` only its form is looked at, and it cannot be held against anything.

    Raises:
        TextFault: it is no condition on these fields.
    """
    compiler = _Compiler(one_line(text), types)
    parsed = tree(compiler.text, _EXAMPLE)
    met, broken = (compiler.condition(parsed, positive) for positive in (True, False))
    return Condition(tuple(compiler.fields), met, broken, tuple(compiler.compared))


def same_condition(one: str, other: str) -> bool:
    """Whether two texts, which are conditions, say the same but for spaces, quotes, brackets and 1 for 1.0."""
    return _said(one) == _said(other)


def _said(text: str) -> str:
    parsed = tree(one_line(text), _EXAMPLE)
    for node in ast.walk(parsed):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value = float(node.value)
    return ast.dump(parsed)


class _Compiler:
    """Compiles one text; `positive` is whether its truth is wanted, or its falsehood."""

    def __init__(self, text: str, types: Mapping[str, str] | None) -> None:
        self.text = text
        self.fields: dict[str, None] = {}
        self.compared: dict[tuple[str, str], None] = {}
        self._types = types

    def condition(self, node: ast.expr, positive: bool) -> Met:
        match node:
            case ast.BoolOp(op=op, values=values):
                parts = [self.condition(each, positive) for each in values]
                return _all(parts) if isinstance(op, ast.And) == positive else _any(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.condition(operand, not positive)
            case ast.Compare(left=left, ops=ops, comparators=others):
                pairs = zip([left, *others[:-1]], ops, others, strict=True)
                parts = [self._comparison(one, op, other, positive) for one, op, other in pairs]
                return _all(parts) if positive else _any(parts)
            case ast.Name(id=name) if name not in _WORDS:
                if self._kind(node, name) not in (None, "boolean"):
                    raise fault_at(self.text, node, "is no boolean field: compare it with a value")
                return _number(name, ast.Eq if positive else ast.NotEq, 1.0)
        raise fault_at(self.text, node, f"is no condition: {_EXAMPLE}")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr, positive: bool) -> Met:
        name, kind = name_of(left), type(op)
        if name is None or name in _WORDS:
            other = name_of(right)
            if kind in _COMPARISONS and other is not None and other not in _WORDS:
                return self._comparison(right, _SWAPPED.get(kind, kind)(), left, positive)
            raise fault_at(self.text, left, "is no field: compare a field with a value")
        of = self._kind(left, name)
        if kind in (ast.Is, ast.IsNot):
            if name_of(right) != "null":
                raise fault_at(
                    self.text,
                    right,
                    "cannot follow is: write is null, is not null or a comparison such as ==",
                )
            wanted = (kind is ast.Is) == positive
            return lambda columns: columns.missing(name) if wanted else ~columns.missing(name)
        second = name_of(right)
        if kind in _COMPARISONS and second is not None and second not in _WORDS:
            return self._two_fields(left, name, right, second, kind if positive else _NEGATED[kind])
        if of == "timestamp":
            raise fault_at(
                self.text, left, "is a timestamp: compare it with another, or ask whether it is null"
            )
        if kind in (ast.In, ast.NotIn):
            return self._membership(name, of, right, (kind is ast.In) == positive)
        wanted_op = kind if positive else _NEGATED[kind]
        value = self._literal(right, of)
        if isinstance(value, str):
            return _text(name, lambda text: _COMPARISONS[wanted_op](text, value))
        return _number(name, wanted_op, value)

    def _two_fields(self, left: ast.expr, name: str, right: ast.expr, other: str, op: type[ast.cmpop]) -> Met:
        self.compared[name, other] = None
        kinds = [self._kind(left, name), self._kind(right, other)]
        for node, kind in zip((left, right), kinds, strict=True):
            if kind not in (None, "number", "timestamp"):
                said = f"is a {kind}: only numbers, and timestamps, are compared field with field"
                raise fault_at(self.text, node, said)
        if self._types is not None and kinds[0] != kinds[1]:
            said = f"is a {kinds[1]}, and {name!r} is a {kinds[0]}: compare numbers, or two timestamps"
            raise fault_at(self.text, right, said)
        compare = _COMPARISONS[op]

        def met(columns: Any) -> Mask:
            known = ~(np.isnan(columns.numbers(name)) | np.isnan(columns.numbers(other)))
            return np.asarray(compare(*columns.comparable(name, other)) & known)

        return met

    def _membership(self, name: str, of: str | None, node: ast.expr, positive: bool) -> Met:
        if not isinstance(node, ast.List | ast.Tuple) or not node.elts:
            raise fault_at(self.text, node, "is no list of values: write one such as [1, 2]")
        values = [self._literal(each, of) for each in node.elts]
        if len({isinstance(value, str) for value in values}) > 1:
            raise fault_at(self.text, node, "mixes strings and numbers: write values of the field's type")
        if isinstance(values[0], str):
            texts = frozenset(values)
            return _text(name, lambda text: (text in texts) == positive)

        def met(columns: Any) -> Mask:
            column = columns.numbers(name)
            return np.asarray((np.isin(column, values) == positive) & ~np.isnan(column))

        return met

    def _literal(self, node: ast.expr, of: str | None) -> float | str:
        sign, value = 1.0, node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, value = (-1.0 if isinstance(node.op, ast.USub) else 1.0), node.operand
        found: Any = value.value if isinstance(value, ast.Constant) else _WORDS.get(name_of(value) or "")
        kind = None
        if isinstance(found, str) and value is node:
            kind = "string"
        elif isinstance(found, bool) or isinstance(value, ast.Name):
            kind = "boolean" if found is not None and value is node else None
        elif isinstance(found, int | float) and abs(found) < math.inf:
            kind = "number"
        if kind is None:
            if name_of(node) == "null":
                raise fault_at(self.text, node, "never meets a comparison: write is null or is not null")
            raise fault_at(self.text, node, "is no value: write a number, a string in quotes, true or false")
        if of is not None and kind != of:
            raise fault_at(self.text, node, f"is a {kind}, and the field is a {of}: write a {of}")
        return found if isinstance(found, str) else sign * float(found)

    def _kind(self, node: ast.expr, name: str) -> str | None:
        """Note that a field is read, and return its kind if it is known."""
        self.fields[name] = None
        if self._types is None:
            return None
        if name not in self._types:
            raise fault_at(
                self.text, node, "is no field of the source: declare it there, or put a string in quotes"
            )
        return _KINDS.get(self._types[name], self._types[name])


def _number(name: str, op: type[ast.cmpop], value: float) -> Met:
    compare = _COMPARISONS[op]
    if op is not ast.NotEq:  # no other comparison is met by NaN
        return lambda columns: compare(columns.numbers(name), value)

    def met(columns: Any) -> Mask:
        column = columns.numbers(name)
        return np.asarray((column != value) & ~np.isnan(column))

    return met


def _text(name: str, is_met: Callable[[str], bool]) -> Met:
    def met(columns: Any) -> Mask:
        texts = columns.texts(name)
        found: Mask = texts.look_up(map(is_met, texts.known), False)
        return found

    return met


def _all(parts: Sequence[Met]) -> Met:
    return lambda columns: np.logical_and.reduce([part(columns) for part in parts])


def _any(parts: Sequence[Met]) -> Met:
    return lambda columns: np.logical_or.reduce([part(columns) for part in parts])
