"""Measured blocks of pages in docs/: each command rewrites its own and leaves the rest."""

import json
import os
import platform
import re
from pathlib import Path

import torch

from visiontune.runs import RunDirectory

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, STRATEGIES, COMPRESSION = (DOCS / f"{name}.md" for name in ("benchmarks", "strategies", "compression"))


def write_block(name: str, text: str, page: Path = PAGE) -> None:
    """Put `text` between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->`` of the page."""
    old = page.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(old), f"{page} has no block {name}"
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text.rstrip()}\n{found[2]}", old))


def machine() -> str:
    """One line on what a figure was measured on."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads{gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    )


def machines(runs: list[RunDirectory]) -> str:
    """What runs themselves recorded, not the machine that this is read on."""
    seen = [json.loads(run.environment.read_text()) for run in runs]
    return "; ".join(sorted({f"{one['processors']} thread(s), torch {one['packages']['torch']}" for one in seen}))


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
