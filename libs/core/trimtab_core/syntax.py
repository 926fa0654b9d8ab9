"""Reads the small languages of a spec, conditions and expressions, whose grammar is Python's.

A text is only ever parsed, never run: what its tree may hold is for the reader to say,
and what it may not hold is told with its place in the text.
"""

import ast
from typing import Final

LONGEST: Final = 1_000
"""Characters that a text may have."""
DEEPEST: Final = 100
"""Levels that its tree may have, which bounds what it takes to hold it against rows."""


class TextFault(ValueError):
    """A text means nothing here; it names the place in the text and the remedy."""


def tree(text: str, remedy: str) -> ast.expr:
    """Return the tree of a text in one line, as `one_line` gives it.

    Raises:
        TextFault: it is too long or too deep, or cannot be read.
    """
    if len(text) > LONGEST:
        raise TextFault(f"{text[:40]!r}… has {len(text)} characters: write at most {LONGEST}")
    try:
        found = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        if error.offset == 0:
            where = "ends too soon"
        else:
            at = (error.offset or 1) - 1
            where = f"cannot be read from character {at + 1}, {text[at : at + 20]!r}"
        raise TextFault(f"{text!r} {where}: {remedy}") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise TextFault(f"{text!r} cannot be read: {remedy}") from error
    level: list[ast.AST] = [found]
    for _ in range(DEEPEST):
        level = [below for node in level for below in ast.iter_child_nodes(node)]
    if level:
        raise TextFault(f"{text!r} is nested more than {DEEPEST} deep: write it flatter")
    return found


def one_line(text: str) -> str:
    """Return a text without line breaks and spaces around it."""
    return text.strip().replace("\r", " ").replace("\n", " ")


def fault_at(text: str, node: ast.AST, said: str) -> TextFault:
    """Return a fault of a part of a text, with its place."""
    raw = text.encode()
    at = len(raw[: getattr(node, "col_offset", 0)].decode(errors="replace"))
    end = len(raw[: getattr(node, "end_col_offset", 0) or 0].decode(errors="replace"))
    return TextFault(f"{text[at:end]!r} at character {at + 1} of {text!r} {said}")


def name_of(node: ast.expr) -> str | None:
    """Return what a plain name says; None for anything else."""
    return node.id if isinstance(node, ast.Name) else None
