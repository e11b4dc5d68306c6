"""Blocks of measured numbers in docs/. Each command rewrites its block and nothing else."""

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
    """Write `text` between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->`` of the page."""
    old = page.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(old), f"{page} has no block {name}"
    page.write_text(pattern.sub(lambda match: f"{match[1]}{text.rstrip()}\n{match[2]}", old))


def machine() -> str:
    """One line about this machine."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads{gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    )


def machines(runs: list[RunDirectory]) -> str:
    """The machines that the runs recorded, which may not be this one."""
    records = [json.loads(run.environment.read_text()) for run in runs]
    texts = {f"{record['processors']} thread(s), torch {record['packages']['torch']}" for record in records}
    return "; ".join(sorted(texts))


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
