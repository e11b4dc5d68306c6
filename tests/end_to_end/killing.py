"""Run `visiontune` in a process that kills itself, forked from a process that has imported everything already.

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
    process = CONTEXT.Process(target=_run, args=(moment, number, list(arguments), output))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(moment: str, number: int, arguments: list[str], output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from kill_moments import MOMENTS

    from visiontune.cli import main

    multiprocessing.set_start_method("fork", force=True)  # for data-loader workers, as in a new process
    MOMENTS[moment](number)
    sys.argv = ["visiontune", *arguments]
    main()
