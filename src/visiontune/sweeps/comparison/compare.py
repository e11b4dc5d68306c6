"""The table and the page of a sweep, or of any runs."""

import shlex
from pathlib import Path

from visiontune.analysis.tables import render, render_markdown
from visiontune.errors import UserError
from visiontune.runs.files import write_atomically
from visiontune.runs.log import logging_to, warn_on_failure
from visiontune.runs.output import write_error
from visiontune.sweeps.comparison.groups import REPEATS, check_table, summarize_groups
from visiontune.sweeps.comparison.out_of_fold import write_out_of_fold
from visiontune.sweeps.comparison.records import read_tests
from visiontune.sweeps.comparison.soups import read_soups
from visiontune.sweeps.comparison.table import Rows, find_entries, run_names, table, write_rows
from visiontune.sweeps.page.overview import build_page, check_page
from visiontune.sweeps.page.page import write_page
from visiontune.sweeps.study.entries import Entry

TABLES = ("sweep.csv", "sweep_groups.csv", "sweep_out_of_fold.csv")


def compare(
    directories: list[Path], target: Path | None = None, markdown: Path | None = None, baseline: str | None = None
) -> None:
    """Print the table of the runs and that of their groups, and save them and the page that compares the runs.

    Runs that differ only in seed or fold are a group; without such runs there is only the first table.

    Args:
        target: the CSV file; by default sweep.csv in the first directory. The page (sweep.html), the table of the
            groups (sweep_groups.csv) and the predictions of held-out folds (sweep_out_of_fold.csv) are beside it.
        markdown: a file for the table as Markdown.
        baseline: the group that the others are compared with, see `summarize_groups`; by default the best.

    Raises:
        UserError: the directories hold no runs, the baseline is not a group, or a file cannot be written or would
            replace a file of a run.
    """
    entries = find_entries(directories)
    target = _check_target(target or directories[0] / "sweep.csv", entries)
    page = check_page(target.with_suffix(".html"))
    if markdown is not None:
        markdown = _check_target(markdown, entries, "--markdown", "table.md")
    groups_file = check_table(target.with_name(f"{target.stem}_groups.csv"), "verdict")
    folds_file = check_table(target.with_name(f"{target.stem}_out_of_fold.csv"), "loss")
    if len({target, page, markdown, groups_file, folds_file}) < 5:
        raise UserError(
            f"the table {target}, the page {page} and the Markdown {markdown} need different names: write "
            "--csv table.csv --markdown table.md"
        )
    rows = table(entries)
    by_name = dict(zip(run_names(entries), entries, strict=True))
    groups = summarize_groups(rows, by_name, baseline)
    write_rows(rows, target)
    print(_text("", rows))
    if groups:
        write_rows(groups, groups_file)
        print("\n" + _text(f"mean over {' and '.join(key for key in REPEATS if key in rows[0])}", groups))
    results = [line for folder in directories for line in _describe_results(folder)]
    print("\n".join(["", *results, ""] if results else [""]))
    if write_out_of_fold(rows, by_name, folds_file):
        print(folds_file)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(markdown) as file:
            file.write(render_markdown(list(rows[0]), _cells(rows)))
        print(markdown)
    with logging_to(None), warn_on_failure(f"{page} is not current"):
        write_page(page, build_page(directories, entries, rows, groups, REPEATS, results))
        print(page)
    print(target)


def _describe_results(folder: Path) -> list[str]:
    """What came after a sweep: the test of its winner, and soups."""
    return [test.describe() for test in read_tests(folder)] + [
        soup.describe(path.name) for path, soup in read_soups(folder)
    ]


def _check_target(target: Path, entries: list[Entry], option: str = "--csv", name: str = "table.csv") -> Path:
    """The path of a file, after a check that it can be written and replaces no file of a run.

    Args:
        option: that names the file.
        name: an example of a file.

    Raises:
        UserError: it cannot be written, or is a file of a run.
    """
    target = target.expanduser()
    if target.exists() and not target.is_file():
        example = shlex.quote(str(target / name if target.is_dir() else name))
        raise UserError(f"{option} {target} is not a file: write a file, such as {option} {example}")
    if target.name not in TABLES and any(target.resolve().is_relative_to(entry.path) for entry in entries):
        raise UserError(f"{target} is in a run directory: write another file, such as {option} {name}")
    if reason := write_error(target.parent):
        raise UserError(f"cannot write to {target}: {reason}; write {option} FILE in a folder that you may write to")
    return target


def _text(title: str, rows: Rows) -> str:
    return render(title, list(rows[0]), _cells(rows))


def _cells(rows: Rows) -> list[list[object]]:
    return [[f"{value:.4f}" if isinstance(value, float) else value for value in row.values()] for row in rows]
