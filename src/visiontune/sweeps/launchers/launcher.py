"""The interface of launchers."""

from abc import ABC, abstractmethod

from omegaconf import DictConfig

from visiontune.nodes import build
from visiontune.sweeps.study.sweep import Sweep
from visiontune.sweeps.workers.job_process import Train


class Launcher(ABC):
    """Starts the workers of a sweep.

    Attributes:
        is_remote: the jobs may run on other machines than the command.
    """

    is_remote = False

    @abstractmethod
    def prepare(self, cfg: DictConfig) -> None:
        """Check that workers can be started, before the jobs are checked.

        Args:
            cfg: the composed config, without the values that the sweep varies.

        Raises:
            UserError: a program, a package or a key is missing.
        """

    @abstractmethod
    def share(self, options: DictConfig, trainer: DictConfig, jobs: int) -> tuple[int, int]:
        """The number of jobs that each worker runs at the same time, and the CPU threads of each job.

        Args:
            options: the keys of `sweep`.
            trainer: the keys of `trainer` of the first job.
            jobs: that the sweep has.

        Raises:
            UserError: the machines lack what the jobs need.
        """

    @abstractmethod
    def launch(self, sweep: Sweep, options: DictConfig, train: Train) -> None:
        """Start the workers, wait until no job waits or runs, and print the table.

        Args:
            options: the keys of `sweep`.
            train: trains or resumes the run of a config.

        Raises:
            RunError: a job has failed, or has not finished.
            Interrupted: a signal has stopped the workers.
        """


def build_launcher(node: DictConfig) -> Launcher:
    """Build the launcher of a config.

    Raises:
        UserError: it names no launcher, or an argument is wrong.
    """
    expected = "a launcher, such as visiontune.sweeps.launchers.local.Local"
    launcher: Launcher = build(node, "launcher", expected, Launcher, only_classes=True)
    return launcher
