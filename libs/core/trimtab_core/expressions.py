"""Expressions over features, such as `request.distance / zone_speed.mph_mean_7d * 60`.

Parsed, never run as Python: a tree of the few things below, each one numpy function over
float64 columns, so that one row and a million are computed by the same code. What is
missing is NaN and so is all that is made of it; a result that is no finite number, such as
of a division by zero or the logarithm of -1, is missing too.
"""

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trimtab_core.syntax import TextFault, fault_at, name_of, one_line, tree

Floats = NDArray[np.float64]
Value = Any
"""A column, or a constant."""
Node = Callable[[Sequence[Floats]], Value]

_EXAMPLE: Final = "write an expression such as request.distance / speed.mph_mean_7d * 60"
_HIDDEN: Final = "\u01c0"
"""A letter to Python, which stands for the dash in a view's or table's name while an expression is parsed."""
_CALENDAR: Final = ("hour", "weekday", "month")
_ARITHMETIC: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.float_power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _where(condition: Value, one: Value, other: Value) -> Value:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, one, other))


def _coalesce(one: Value, other: Value) -> Value:
    return np.where(np.isnan(one), other, one)


def _is_null(one: Value) -> Value:
    return np.isnan(one).astype(np.float64)


def _not(one: Value) -> Value:
    return np.where(np.isnan(one), np.nan, one == 0)


def _and(one: Value, other: Value) -> Value:
    known = np.where(np.isnan(one) | np.isnan(other), np.nan, 1.0)
    return np.where((one == 0) | (other == 0), 0.0, known)


def _or(one: Value, other: Value) -> Value:
    return _not(_and(_not(one), _not(other)))


_SIGNS: dict[type[ast.unaryop], Callable[[Value], Value]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: _not,
}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "abs": (1, np.abs),
    "log": (1, np.log),
    "exp": (1, np.exp),
    "sqrt": (1, np.sqrt),
    "floor": (1, np.floor),
    "ceil": (1, np.ceil),
    "is_null": (1, _is_null),
    "where": (3, _where),
}
_OF_SEVERAL: dict[str, Callable[[Value, Value], Value]] = {
    "min": np.minimum,
    "max": np.maximum,
    "coalesce": _coalesce,
}


@dataclass(frozen=True, slots=True)
class Input:
    """A feature that an expression reads, and from which character on it is written."""

    name: str
    at: int


class Expression:
    """A compiled expression."""

    def __init__(self, text: str, views: Iterable[str], tables: Iterable[str] = ()) -> None:
        """Compile `text`; names with a dash are read as one word, of `views` before a dot, of `tables` before a bracket.

        Raises:
            TextFault: it is no expression.
        """
        self.text = one_line(text)
        self._views = [view for view in views if "-" in view]
        self._tables = [table for table in tables if "-" in table]
        dashed = [*(f"{name}." for name in self._views), *(f"{name}[" for name in self._tables)]
        compiler = _Compiler(self.text, dashed)
        self._node = compiler.compile()
        self.inputs = tuple(compiler.inputs.values())
        """What `evaluate` takes, in order."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as text, and be compiled there."""
        return Expression, (self.text, self._views, self._tables)

    def evaluate(self, columns: Sequence[Floats]) -> Floats:
        """Return the value [rows] of each row, NaN where it is missing."""
        with np.errstate(all="ignore"):
            found: Floats = self._node(columns)
        return found


class _Compiler:
    def __init__(self, text: str, dashed: Sequence[str]) -> None:
        self.inputs: dict[str, Input] = {}
        self._said = text
        self._text = _hidden(text, dashed)

    def compile(self) -> Node:
        try:
            node = self._compile(tree(self._text, _EXAMPLE))
        except TextFault as fault:
            raise TextFault(_shown(str(fault))) from fault
        if not self.inputs:
            raise TextFault(f"{self._said!r} reads no feature: {_EXAMPLE}")
        return node

    def _compile(self, node: ast.expr) -> Node:
        match node:
            case ast.Constant(value=bool() | str() | bytes() | complex() | None):
                raise self._fault(node, "is no number: write one")
            case ast.Constant(value=int() | float() as value) if abs(value) <= np.finfo(np.float64).max:
                number = np.float64(value)
                return lambda _: number
            case ast.Attribute(value=ast.Name(id=head), attr=attribute):
                return self._input(node, f"{_shown(head)}.{attribute}")
            case ast.Attribute(
                value=ast.Subscript(value=ast.Name(id=table), slice=ast.Name(id=field)), attr=attribute
            ):
                return self._input(node, f"{_shown(table)}[{field}].{attribute}")
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
                return _applied(_SIGNS[type(op)], [self._compile(operand)])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _applied(_ARITHMETIC[type(op)], [self._compile(left), self._compile(right)])
            case ast.BoolOp(op=op, values=values):
                return _folded(_and if isinstance(op, ast.And) else _or, [*map(self._compile, values)])
            case ast.Compare(left=left, ops=ops, comparators=others) if _COMPARISONS.keys() >= set(
                map(type, ops)
            ):
                sides = [self._compile(each) for each in (left, *others)]
                pairs = zip(sides[:-1], ops, sides[1:], strict=True)
                return _folded(_and, [_compared(type(op), one, other) for one, op, other in pairs])
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(node, name, arguments)
            case ast.Name(id=name):
                raise self._fault(node, f"is no feature: write request.{name}, or view.column")
        raise self._fault(node, f"is no part of an expression: {_EXAMPLE}")

    def _call(self, node: ast.Call, name: str, arguments: list[ast.expr]) -> Node:
        if name in _CALENDAR:
            field = name_of(arguments[0]) if len(arguments) == 1 else None
            if field is None:
                raise self._fault(node, f"takes the name of one field: write {name}(field)")
            return self._input(node, f"{name}({field})")
        if name in _OF_SEVERAL:
            if len(arguments) < 2:
                raise self._fault(node, f"takes two values or more: write {name}(a, b)")
            return _folded(_OF_SEVERAL[name], [*map(self._compile, arguments)])
        if name not in _FUNCTIONS:
            known = ", ".join(sorted([*_FUNCTIONS, *_OF_SEVERAL, *_CALENDAR]))
            raise self._fault(node, f"names a function that there is not: write one of {known}")
        count, apply = _FUNCTIONS[name]
        if len(arguments) != count:
            raise self._fault(node, f"takes {count} value{'s' * (count > 1)}, and not {len(arguments)}")
        return _applied(apply, [*map(self._compile, arguments)])

    def _input(self, node: ast.expr, name: str) -> Node:
        at = list(self.inputs).index(name) if name in self.inputs else len(self.inputs)
        character = len(self._text.encode()[: node.col_offset].decode()) + 1
        self.inputs.setdefault(name, Input(name, character))
        return lambda columns: columns[at]

    def _fault(self, node: ast.AST, said: str) -> TextFault:
        return fault_at(self._text, node, said)


def _applied(apply: Callable[..., Value], parts: Sequence[Node]) -> Node:
    def node(columns: Sequence[Floats]) -> Value:
        found = apply(*[part(columns) for part in parts])
        return np.where(np.isfinite(found), found, np.nan)

    return node


def _folded(apply: Callable[[Value, Value], Value], parts: Sequence[Node]) -> Node:
    def node(columns: Sequence[Floats]) -> Value:
        found = parts[0](columns)
        for part in parts[1:]:
            found = apply(found, part(columns))
        return found

    return node


def _compared(op: type[ast.cmpop], one: Node, other: Node) -> Node:
    compare = _COMPARISONS[op]

    def node(columns: Sequence[Floats]) -> Value:
        left, right = one(columns), other(columns)
        return np.where(np.isnan(left) | np.isnan(right), np.nan, compare(left, right))

    return node


def _shown(text: str) -> str:
    return text.replace(_HIDDEN, "-")


def _hidden(text: str, dashed: Sequence[str]) -> str:
    """Return `text` in which each of `dashed`, names with the character behind them, is one word to Python."""
    for name in sorted(dashed, key=len, reverse=True):
        pieces = text.split(name)
        text = pieces[0]
        for piece in pieces[1:]:
            own = not (text[-1:].isalnum() or text[-1:] in ("_", _HIDDEN))
            text += (name.replace("-", _HIDDEN) if own else name) + piece
    return text
