"""The entry point of the command `visiontune`, also as `python -m visiontune`."""

import atexit
import io
import os
import sys
from contextlib import suppress


class Exit:
    """Ends the process with `code` after all other exit functions have run.

    Python would free the million objects of torch one by one, which takes as long as a third of `visiontune plan`.
    """

    def __init__(self) -> None:
        self.code = 1
        atexit.register(self._exit)  # exit functions run in reverse order, so this one is the last

    def _exit(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(self.code)


def run() -> None:
    """Run the command line of this process."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started this process: a file must not take its place
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
    process_exit = Exit()
    for stream in (sys.stdout, sys.stderr):  # a name may have bytes, or characters that the terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from visiontune.cli import main

    try:
        main()
        process_exit.code = 0
    except SystemExit as error:
        process_exit.code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise


if __name__ == "__main__":
    run()
