"""Why the process of a job has ended."""

import signal
from pathlib import Path
from typing import Any

from visiontune.errors import first_line
from visiontune.signals import PAUSED
from visiontune.sweeps.study.paths import ERROR, output_path

OUTPUT_BYTES = 100_000  # at the end of a job's output, where its error is
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "CUDA out of memory", "Cannot allocate memory")


def find_error(sweep: Path, number: int, status: dict[str, Any], stopped: bool, exit_code: int | None) -> str | None:
    """Why a job has not finished, in one line; None if it can be resumed.

    Args:
        status: of its run.
        stopped: the job was stopped together with its worker.
        exit_code: of the process, negative if a signal has killed it; None if another process had started it.
    """
    if status["status"] == "failed":
        return first_line(status.get("error", "failed")).rstrip(": ")
    if exit_code in (0, 1, 2):
        return _printed_error(sweep, number) or f"ended with exit code {exit_code} and without a result"
    if stopped or exit_code is None or exit_code == PAUSED:
        return None
    if exit_code == -signal.SIGKILL:
        return "killed by SIGKILL: the system may have run out of memory"
    return f"stopped by {signal.Signals(-exit_code if exit_code < 0 else exit_code - 128).name}"


def has_machine_stopped(error: str, exit_code: int | None) -> bool:
    """Whether the machine has stopped the job, which may run another time: it was killed, or out of memory."""
    is_signal = exit_code is not None and (exit_code < 0 or exit_code > 128)
    return is_signal or any(text in error for text in OUT_OF_MEMORY)


def _printed_error(sweep: Path, number: int) -> str | None:
    """The last error that a job has printed."""
    path = output_path(sweep, number)
    lines = path.read_text(errors="replace")[-OUTPUT_BYTES:].splitlines() if path.is_file() else []
    return next((line.removeprefix(ERROR) for line in reversed(lines) if line.startswith(ERROR)), None)
