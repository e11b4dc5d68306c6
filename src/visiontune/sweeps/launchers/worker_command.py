"""The command `visiontune work`, as the task of a scheduler. This module imports nothing that takes time."""

import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visiontune.runs.processes import end_with

POLL_SECONDS = 0.2


@dataclass
class WorkerCommand:
    """Runs a worker of a sweep in a process, and returns its exit code.

    Attributes:
        sweep: the directory of the sweep.
        jobs: number of jobs at the same time.
        threads: of each job.
        folder: the working directory of the command that started the sweep.
        allow_changed: resume interrupted jobs though the code has changed.
        output: the file for what the worker prints.
    """

    sweep: Path
    jobs: int
    threads: int
    folder: str
    allow_changed: bool
    output: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __call__(self) -> int:
        """Be the task: end with the worker, and stop it when the task is stopped."""
        command = [sys.executable, "-m", __name__, str(os.getpid()), "work", str(self.sweep), "--keep-failed"]
        command += ["--workers", str(self.jobs), *["--allow-changed"] * self.allow_changed]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}  # Ray sets another number
        with self.output.open("a") as file:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=file, stderr=file)
        try:
            while self.process.poll() is None:  # Ray's KeyboardInterrupt does not end `wait`
                time.sleep(POLL_SECONDS)
        finally:
            self.stop()
        code = self.process.returncode
        if code < 0 or code > 128:  # stopped, so the task has no result; the scheduler may start it again
            sys.exit(code if code > 0 else 128 - code)
        return code

    def stop(self) -> None:
        """Stop the worker. Its jobs write a checkpoint, and wait for the next worker."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()

    def describe_end(self) -> str:
        """The last line that the worker has printed, with the file."""
        lines = self.output.read_text(errors="replace").splitlines() if self.output.is_file() else []
        return f"{self.output}: {lines[-1] if lines else 'the worker has not started'}"

    def checkpoint(self) -> Any:
        """Stop the worker and start it again later; submitit asks for it before the time limit and a preemption."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(replace(self))


def run_worker(command: WorkerCommand) -> int:
    """The task of Ray, which takes functions."""
    return command()


def main() -> None:
    """Be the process of a worker: `python -m MODULE PID work SWEEP ...`; end with the process PID, even by SIGKILL.

    Slurm sends SIGUSR2 to all processes of a task. Only that of submitit reacts, with `checkpoint`. Ray blocks SIGINT.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end_with(int(sys.argv.pop(1)))
    runpy.run_module("visiontune", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
