"""Tables as aligned text that fits into a terminal, Markdown and CSV, and reports that are made of several of them."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest
from numbers import Integral, Real
from typing import Any

Cell = str | int | float | None
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|&~])")
# What stands in one line: a command in backquotes or MLflow's for the UI, an interval, a word, a share of a weighting.
_WHOLE = re.compile(r"\s*(?:[^\s`]*`[^`]*`\S*|\[[^][]*\]\S*|mlflow ui \S+ \S+|\S+?(?:,(?=[^\s,=]+=)|(?=\s|$)))")
_LEAST = 16  # columns of text are not made narrower
_EMOJI = re.compile(r":(?=[\w+-]+:)")  # MLflow's UI makes a picture of `:train:`
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that starts so for a formula


@dataclass(frozen=True)
class Table:
    """Named columns and rows of cells; None is a cell without a value."""

    header: Sequence[str] = ()  # a name for each column; empty for a table without one
    rows: Sequence[Sequence[Cell]] = ()
    align: str = ""  # `l` or `r` for each column; where it is empty, columns that hold only numbers end together
    digits: int = 4  # decimals of numbers that are not whole
    widths: Sequence[int] = ()  # the least width of the first columns, as text
    rule: bool = False  # whether a line is drawn below the header, as text
    optional: Sequence[str] = ()  # names of the columns that a narrow terminal leaves out, the first one first

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


Part = str | Table | Sequence[Section]  # lines, a table or a report


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


def format_interval(interval: Any, sign: str = "") -> str:
    """Return the ends of an interval to four places; the sign `+` gives both one."""
    return f"[{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def format_p_value(p_value: float) -> str:
    """Return a p-value to four places, a smaller one as what it is below; `none` for NaN."""
    return "none" if p_value != p_value else "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def text_lines(table: Table, width: int | None = None, indent: int = 2, others: str = " or a pipe") -> list[str]:
    """Return a table as lines of columns that are two spaces apart, and that are no longer than `width`.

    A table that is too wide loses its optional columns, which the last line names with `others`, where else they are;
    then texts are wrapped in their cells. Numbers are never cut: a table that is still too wide stays so.
    """
    rows = [list(map(one_line, table.header))] * bool(table.header) + table._cells()
    least = chain(table.widths, repeat(0))
    widths = [max(first, *map(len, column)) for first, column in zip(least, zip(*rows, strict=True), strict=False)]
    right, shown, gone = table._right(), list(range(len(widths))), list[str]()

    def excess() -> int:
        return 0 if width is None else indent - 2 + sum(widths[each] + 2 for each in shown) - width

    for name in table.optional:
        if excess() > 0:
            shown.remove(table.header.index(name))
            gone.append(name)
    while excess() > 0 and (texts := [each for each in shown if widths[each] > _LEAST and not right[each]]):
        widths[max(texts, key=widths.__getitem__)] -= 1
    cells = [[wrapped(row[each], widths[each]) for each in shown] for row in rows]
    widths = [max(widths[each], *(len(line) for row in cells for line in row[at])) for at, each in enumerate(shown)]
    pads = [str.rjust if right[each] else str.ljust for each in shown]
    blocks = [
        ["  ".join(pad(c, w) for pad, c, w in zip(pads, line, widths, strict=True)).rstrip() for line in lines]
        for lines in (zip_longest(*row, fillvalue="") for row in cells)
    ]
    if table.rule and table.header:
        blocks.insert(1, ["-" * max(map(len, blocks[0]))])
    lines = [" " * indent + line for block in blocks for line in block]
    if gone:
        names = ", ".join(name for name in table.header if name in gone)
        count = f"{len(gone)} columns do" if len(gone) > 1 else "1 column does"
        lines += wrapped(
            f"{' ' * indent}{count} not fit into {width}: {names}; a wider terminal{others} has them", width
        )
    return lines


def wrapped(text: str, width: int | None) -> list[str]:
    """Return a line as lines that are no longer than `width`, broken between words; a longer word stays whole.

    >>> wrapped("  status  too few rows have a label", 24)
    ['  status  too few rows', '          have a label']
    """
    gap = re.match(r"\s*[^\s·][^·]*?\s{2,}(?=\S)", text)  # what stands before it is a label
    lines, hang = [""], len(text) - len(text.lstrip())
    if width is None or len(text) <= width:
        return [text]
    if gap and gap.end() <= width // 2:
        hang = gap.end()
    for piece in _WHOLE.findall(text):
        if len(lines[-1]) > hang and len(lines[-1] + piece) > width:
            lines.append(" " * hang + piece.lstrip())
        else:
            lines[-1] += piece
    return lines


def part_lines(part: Part, width: int | None = None, others: str = " or a pipe") -> list[str]:
    """Return what is printed as lines that fit into a terminal's width; `others` as for `text_lines`."""
    if isinstance(part, str):
        return [line for each in part.split("\n") for line in wrapped(each, width)]
    if isinstance(part, Table):
        return text_lines(part, width, others=others)
    lines: list[str] = []
    for each in part:
        texts = [each.title, *(f"  {line}" for line in each.lines)] if each.title else each.lines
        lines += ["", *(line for text in texts for line in wrapped(one_line(text), width))]
        lines += text_lines(each.table, width, others=others)
    return lines[1:]


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
    """Return text in one line that Markdown, and HTML inside it, takes as it is.

    >>> escape_markdown("a_b:train:c")
    'a\\\\_b&#58;train:c'
    """
    return _EMOJI.sub("&#58;", _MARKUP.sub(r"\\\1", one_line(text)))
