"""The processes of a run are its own: Lightning must not take them for tasks of a cluster."""

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.plugins.environments import LightningEnvironment


def own_processes() -> LightningEnvironment:
    """The environment for every Trainer.

    Lightning would otherwise count the tasks of a job of Slurm, LSF, MPI or torchrun in which the command runs. Their
    variables also set the rank with which loggers write nothing; in a run with several ranks, Lightning sets it again.
    """
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    return LightningEnvironment()
