"""Pages for people, as Markdown and as HTML: headings, text, lists, tables and pictures.

A page is said once and written in either form. The HTML stands by itself: it loads
nothing, its pictures are in it, and it prints. What is told comes from users, so all of
it is escaped; backticks make code and nothing else means anything.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from trimtab_runtime.errors import Rejected

Row = Mapping[str, Any]

STYLE = """
:root {color-scheme: light} body {font: 15px/1.55 system-ui, sans-serif; color: #222; background: #fff; margin: 0}
main {max-width: 980px; margin: 0 auto; padding: 28px 24px 60px} h1 {font-size: 28px; margin: 0 0 4px}
h2 {font-size: 19px; margin: 34px 0 8px; border-bottom: 1px solid #ddd; padding-bottom: 4px}
h3 {font-size: 15px; margin: 20px 0 6px} p {margin: 8px 0} ul {margin: 8px 0; padding-left: 22px}
table {border-collapse: collapse; margin: 10px 0; font-size: 13.5px; display: block; overflow-x: auto; max-width: 100%}
th, td {border-bottom: 1px solid #e2e2e2; padding: 4px 16px 4px 0; text-align: left; vertical-align: top}
td {font-variant-numeric: tabular-nums} code {background: #f3f3f3; padding: 0 3px; border-radius: 3px}
.warning {border-left: 4px solid #d55e00; background: #fdf3ec; padding: 6px 12px; margin: 10px 0}
.figures {display: flex; flex-wrap: wrap; gap: 16px} figure {margin: 0; width: 460px; max-width: 100%}
figure svg {max-width: 100%; height: auto} figcaption {font-size: 12.5px; color: #555}
@media print {main {max-width: none; padding: 0} figure, tr {break-inside: avoid}}
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """What follows is about this."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Warnings:
    """Sentences that must not be overlooked."""

    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Items:
    """Facts by name, those that are there."""

    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bullets:
    """Sentences in a list."""

    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Links:
    """Files, by what they are called."""

    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same columns, without columns in which there is nothing; `empty` is said where there is no row."""

    rows: Sequence[Row]
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG, and what one sees in it."""

    name: str
    svg: str
    caption: str


Block = Heading | Text | Warnings | Items | Bullets | Links | Table | Picture


@dataclass(frozen=True, slots=True)
class Page:
    """A title and what is under it."""

    title: str
    blocks: Sequence[Block]

    def markdown(self, pictures: str = "") -> str:
        """Return it as Markdown; pictures lie in files whose names begin with `pictures`, and are left out without it."""
        parts = [f"# {self.title}", *(_markdown(block, pictures) for block in self.blocks)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def html(self) -> str:
        """Return it as a document of HTML that stands by itself."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"/>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head><body><main>"
            f"<h1>{_marked(self.title)}</h1>{''.join(_body(self.blocks))}</main></body></html>\n"
        )

    def write(self, file: Path) -> list[Path]:
        """Write it to `file`, as HTML or Markdown by its suffix, with its pictures beside it; return what was written.

        Raises:
            Rejected: the suffix is of neither, or a file cannot be written.
        """
        if file.suffix not in (".html", ".md"):
            raise Rejected(f"{file} ends with neither .html nor .md: name a file of one of these forms")
        texts = {file: self.html()}
        if file.suffix == ".md":
            texts = {file: self.markdown(f"{file.stem}-")}
            drawn = (block for block in self.blocks if isinstance(block, Picture))
            texts |= {file.with_name(f"{file.stem}-{each.name}.svg"): each.svg for each in drawn}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            for path, text in texts.items():
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Rejected(f"{file} cannot be written ({error}): name another file") from error
        return list(texts)


def _markdown(block: Block, pictures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return _plain(text)
        case Warnings(sentences):
            return "\n".join(f"> **Warning:** {_plain(each)}  " for each in sentences)
        case Items():
            return "\n".join(f"- {name}: {_plain(value)}" for name, value in _there(block))
        case Bullets(sentences):
            return "\n".join(f"- {_plain(each)}" for each in sentences)
        case Links(files):
            return "\n".join(f"- [{called}]({file})" for called, file in files.items())
        case Table(_, empty):
            names, rows = _cells(block)
            lines = [names, ["---"] * len(names), *rows] if names else []
            return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) or empty
        case Picture(name, _, caption):
            return f"![{caption}]({pictures}{name}.svg)" if pictures else ""


def _body(blocks: Sequence[Block]) -> Iterator[str]:
    """Yield blocks as HTML, pictures that follow one another in one frame."""
    framed = False
    for block in blocks:
        if isinstance(block, Picture) != framed:
            framed = not framed
            yield '<div class="figures">' if framed else "</div>"
        yield _html(block)
    if framed:
        yield "</div>"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_marked(text)}</h{level}>"
        case Text(text):
            return f"<p>{_marked(text)}</p>"
        case Warnings(sentences):
            return "".join(f'<p class="warning">{_marked(each)}</p>' for each in sentences)
        case Items():
            return _list(f"{_marked(name)}: {_marked(_plain(value))}" for name, value in _there(block))
        case Bullets(sentences):
            return _list(_marked(each) for each in sentences)
        case Links(files):
            return _list(f'<a href="{escape(file)}">{escape(called)}</a>' for called, file in files.items())
        case Table(_, empty):
            names, rows = _cells(block)
            if not names:
                return f"<p>{_marked(empty)}</p>" if empty else ""
            head = "".join(f"<th>{_marked(name)}</th>" for name in names)
            body = "".join(f"<tr>{''.join(f'<td>{_marked(cell)}</td>' for cell in row)}</tr>" for row in rows)
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        case Picture(_, svg, caption):
            return f"<figure>{svg}<figcaption>{_marked(caption)}</figcaption></figure>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _there(items: Items) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in items.facts.items() if value not in (None, "")]


def _cells(table: Table) -> tuple[list[str], list[list[str]]]:
    rows = table.rows
    names = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
    return names, [[_plain(row[name]) for name in names] for row in rows]


def _plain(value: Any) -> str:
    """Return a value as text that stays within its line and its cell."""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _marked(text: str) -> str:
    """Return text as HTML, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.replace("\\|", "|"), quote=False))
