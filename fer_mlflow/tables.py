"""Tables as aligned text, Markdown and CSV, and reports that are made of several of them."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from numbers import Integral, Real

Cell = str | int | float | None
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|&~])")
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that starts so for a formula


@dataclass(frozen=True)
class Table:
    """Named columns and rows of cells; None is a cell without a value."""

    header: Sequence[str] = ()  # a name for each column; empty for a table without one
    rows: Sequence[Sequence[Cell]] = ()
    align: str = ""  # `l` or `r` for each column; where it is empty, columns that hold only numbers end together
    digits: int = 4  # decimals of numbers that are not whole
    widths: Sequence[int] = ()  # the least width of the first columns, as text

    def _cells(self) -> list[list[str]]:
        return [[format_cell(cell, self.digits) for cell in row] for row in self.rows]

    def _right(self) -> list[bool]:
        if self.align or not self.rows:
            return [letter == "r" for letter in self.align or "l" * len(self.header)]
        columns = zip(*self.rows, strict=True)
        return [all(cell is None or isinstance(cell, Real) for cell in column) for column in columns]


@dataclass(frozen=True)
class Section:
    """One part of a report: a title, lines below it, and a table; each may be empty."""

    title: str = ""
    lines: Sequence[str] = ()
    table: Table = Table()


def format_cell(cell: Cell, digits: int = 4) -> str:
    """Return a cell as it is shown, in one line.

    >>> format_cell(12345), format_cell(0.5), format_cell(0.5, digits=2), format_cell(None), format_cell("a\\nb")
    ('12,345', '0.5000', '0.50', '–', 'a b')
    """
    if isinstance(cell, str):
        return one_line(cell)
    if cell is None or math.isnan(cell):
        return "–"
    return f"{cell:,}" if isinstance(cell, Integral) else f"{cell:.{digits}f}"


def text_lines(table: Table, indent: int = 2, rule: bool = False) -> list[str]:
    """Return a table as lines of columns that are two spaces apart; `rule` draws a line below the header."""
    rows = [list(map(one_line, table.header))] * bool(table.header) + table._cells()
    least = chain(table.widths, repeat(0))
    widths = [max(width, *map(len, column)) for width, column in zip(least, zip(*rows, strict=True), strict=False)]
    pads = [str.rjust if right else str.ljust for right in table._right()]
    lines = ["  ".join(pad(c, w) for pad, c, w in zip(pads, row, widths, strict=True)).rstrip() for row in rows]
    if rule and table.header:
        lines.insert(1, "-" * len(lines[0]))
    return [" " * indent + line for line in lines]


def markdown_lines(table: Table) -> list[str]:
    """Return a table that has a header as Markdown."""
    rows = [[escape_markdown(cell) for cell in row] for row in (table.header, *table._cells())]
    rows.insert(1, ["---:" if right else "---" for right in table._right()])
    return [f"| {' | '.join(row)} |" for row in rows]


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return rows as CSV: numbers in full, nothing for None, and no cell that a spreadsheet takes for a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in (header, *rows))
    return text.getvalue()


def _inert(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    cell = one_line(cell)
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) else cell


def report_text(sections: Sequence[Section]) -> str:
    """Return sections as they are printed."""
    parts = []
    for each in sections:
        lines = [each.title, *(f"  {line}" for line in each.lines)] if each.title else each.lines
        parts.append("\n".join([*map(one_line, lines), *text_lines(each.table)]))
    return "\n\n".join(parts)


def report_markdown(sections: Sequence[Section]) -> str:
    """Return sections as a Markdown page, whose title is the first section's."""
    blocks: list[list[str]] = []
    for number, each in enumerate(sections):
        blocks.append([f"{'##' if number else '#'} {escape_markdown(each.title)}"] * bool(each.title))
        blocks.append([f"- {escape_markdown(line.strip())}" for line in each.lines])
        blocks.append(markdown_lines(each.table) if each.table.header else [])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def one_line(text: str) -> str:
    """Return text without what would break a line or steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def escape_markdown(text: str) -> str:
    """Return text in one line that Markdown, and HTML inside it, takes as it is."""
    return _MARKUP.sub(r"\\\1", one_line(text))
