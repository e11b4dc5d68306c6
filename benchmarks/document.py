"""Measured blocks of docs/benchmarks.md: each command rewrites its own and leaves the rest."""

import os
import platform
import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def write_block(name: str, text: str) -> None:
    """Put `text` between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->`` of the page."""
    page = PAGE.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(page), f"{PAGE} has no block {name}"
    PAGE.write_text(pattern.sub(lambda found: f"{found[1]}{text.rstrip()}\n{found[2]}", page))


def machine() -> str:
    """One line on what a figure was measured on."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads{gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    )


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
