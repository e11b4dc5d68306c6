"""Pieces of an HTML page. Text from files is escaped here."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from visiontune.errors import one_line, printable

LONGEST = 400  # characters of a cell
GENERATOR = "visiontune compare"  # stands in each page

Cell = str | int | float


def text(content: object, most: int = LONGEST) -> str:
    """A text from anywhere for HTML, in one line; the middle of a longer one is left out."""
    return escape(printable(one_line(str(content), most)))


def format_cell(cell: Cell) -> str:
    """A number with four decimals or digits, whatever shows more; one with a single decimal as it is; NaN is empty."""
    if not isinstance(cell, float):
        return str(cell)
    if cell != cell:
        return ""
    if cell == round(cell, 1) and abs(cell) < 1e6:
        return f"{cell:.15g}"
    return f"{cell:.4f}" if 1e-2 <= abs(cell) < 1e6 else f"{cell:.4g}"


def is_number(cell: Cell) -> bool:
    """Whether a cell is empty or reads as a number."""
    try:
        return cell == "" or float(cell) is not None
    except ValueError:
        return False


def kind(*names: str | bool) -> str:
    """The attribute `class` of an element, or nothing."""
    used = " ".join(name for name in names if isinstance(name, str) and name)
    return f' class="{used}"' if used else ""


def section(title: str, body: str) -> str:
    """A section of the page."""
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>"


def scroll(title: str, body: str, *kinds: str) -> str:
    """A box for what may be wider than the window; the keyboard can scroll it."""
    return f'<div{kind("scroll", *kinds)} role="region" aria-label="{text(title)}" tabindex="0">\n{body}\n</div>'


def link(name: str, target: Path, folder: Path) -> str:
    """A link to `target` from a page in `folder`."""
    return f'<a href="{quote(os.fsencode(os.path.relpath(target, folder)))}">{text(name)}</a>'


def table(rows: Sequence[Mapping[str, Cell]], images: Sequence[str] = ()) -> str:
    """A table of rows that have the keys of the first one.

    Args:
        images: an `img` for the first cell of each row.
    """
    first, *others = rows[0]
    columns = {name: kind("number" if all(not isinstance(row[name], str) for row in rows) else "") for name in others}
    heads = f'<th scope="col">{text(first)}</th>'
    heads += "".join(f'<th scope="col"{style}>{text(name)}</th>' for name, style in columns.items())
    body = []
    for row, image in zip(rows, images or [""] * len(rows), strict=True):
        cells = "".join(f"<td{style}>{text(format_cell(row[name]))}</td>" for name, style in columns.items())
        body.append(f'<tr><th scope="row">{image}{text(format_cell(row[first]))}</th>{cells}</tr>')
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>"
