"""Tables as text, for the terminal, train.log and Markdown."""

import io
import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from visiontune.errors import one_line


def render(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table; columns of numbers are aligned to the right."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        is_numeric = all(row[i].lstrip("-")[:1].isdigit() or not row[i] for row in cells)
        table.add_column(Text(one_line(name)), justify="right" if is_numeric else "left", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    out = io.StringIO()
    Console(file=out, width=1000, highlight=False, markup=False).print(table)
    return "\n".join([*filter(None, [title]), *(line.rstrip() for line in out.getvalue().splitlines())])


def render_markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; what Markdown or HTML would read as markup is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(_escape(str(cell)) for cell in line)} |\n" for line in lines)


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|&~#])", r"\\\1", one_line(text))
