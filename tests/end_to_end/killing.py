"""Run `visiontune`, which may kill itself, in a fork of a process that has only imported everything.

A new interpreter would import for six seconds, and a fork of the test process would inherit its threads.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")


def run_killed(moment: str, number: int, arguments: Sequence[str], output: Path) -> int:
    """Run `visiontune ARGUMENTS` until it reaches `moment` for the `number`-th time, where it sends itself SIGKILL.

    Args:
        output: the file that gets what the process prints.

    Returns:
        The exit code: -9 if the process was killed, otherwise that of the command.
    """
    return _run(output, arguments, (moment, number))


def run_forked(arguments: Sequence[str], output: Path) -> int:
    """Run `visiontune ARGUMENTS` in a process; return its exit code. `output` gets what it prints."""
    return _run(output, arguments)


def _run(output: Path, arguments: Sequence[str], kill_at: tuple[str, int] | None = None) -> int:
    process = CONTEXT.Process(target=work, args=(output, list(arguments), kill_at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def work(output: Path, arguments: list[str], kill_at: tuple[str, int] | None) -> None:
    """Be the process of `visiontune ARGUMENTS`."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from kill_moments import MOMENTS

    from visiontune.cli import main

    multiprocessing.set_start_method("fork", force=True)  # for data-loader workers, as in a new process
    if kill_at is not None:
        moment, number = kill_at
        MOMENTS[moment](number)
    sys.argv = ["visiontune", *arguments]
    main()
