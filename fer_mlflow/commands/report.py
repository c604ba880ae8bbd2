"""Reports of headings, lines and tables: as text for a terminal, as Markdown for a file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fer_mlflow.files import written_file

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")


@dataclass(frozen=True)
class Block:
    """A part of a report: a heading, lines below it, and a table. Numbers in a table stand on the right.

    Attributes
    ----------
    title : empty for none
    header : names of the table's columns
    rows : cells, text or whole numbers
    """

    title: str = ""
    lines: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str | int]] = ()


def table_rows(counts: pd.DataFrame | pd.Series) -> list[list[str | int]]:
    """Return a table's rows: the texts of its index, `-` for an empty one, then its numbers."""
    table = counts.to_frame() if isinstance(counts, pd.Series) else counts
    rows: list[list[str | int]] = []
    for names, numbers in zip(table.index, table.to_numpy(), strict=True):
        texts = names if isinstance(names, tuple) else (names,)
        rows.append([*(str(text) or "-" for text in texts), *map(int, numbers)])
    return rows


def as_text(blocks: Sequence[Block]) -> str:
    """Return blocks as they are printed."""
    return "\n\n".join("\n".join(_text_lines(block)) for block in blocks)


def _text_lines(block: Block) -> list[str]:
    lines = [block.title] if block.title else []
    lines += [f"  {line}" if block.title else line for line in block.lines]
    if not block.header:
        return lines
    cells = [list(block.header), *([_shown(cell) for cell in row] for row in block.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = _numeric_columns(block)
    for row in cells:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def as_markdown(blocks: Sequence[Block]) -> str:
    """Return blocks as a Markdown page; what a manifest says is not taken for markup."""
    parts = []
    for level, block in enumerate(blocks):
        if block.title:
            parts.append(f"{'#' if level == 0 else '##'} {_escaped(block.title)}")
        if block.lines:
            parts.append("\n".join(f"- {_escaped(line.strip())}" for line in block.lines))
        if block.header:
            rule = ["---:" if number else "---" for number in _numeric_columns(block)]
            body = [[_escaped(_shown(cell)) for cell in row] for row in block.rows]
            table = [[_escaped(name) for name in block.header], rule, *body]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(parts) + "\n"


def write_report(path: str | Path, blocks: Sequence[Block]) -> None:
    """Write blocks as a Markdown file."""
    with written_file(path) as file:
        file.write(as_markdown(blocks).encode())


def _numeric_columns(block: Block) -> list[bool]:
    return [
        bool(block.rows) and all(isinstance(row[column], int) for row in block.rows)
        for column in range(len(block.header))
    ]


def _shown(cell: str | int) -> str:
    return f"{cell:,}" if isinstance(cell, int) else cell


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
