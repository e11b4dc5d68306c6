"""How a run was launched: what Hydra knows beside the config."""

from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode


@dataclass(frozen=True)
class Launch:
    """A launch of `train`; the defaults are those of a call from Python.

    Attributes:
        overrides: of the command line; of a sweep's job, that job's.
        data: option chosen for the group `data`, which names a run without a data folder.
        job: number of a sweep's job; None outside a sweep.
        sets_backbone: the backbone was chosen on the command line, and not left to `weights_from`.
        sets_lr: a learning rate was given on the command line, so that a search keeps it.
    """

    overrides: tuple[str, ...] = ()
    data: str = "data"
    job: int | None = None
    sets_backbone: bool = False
    sets_lr: bool = False

    @classmethod
    def from_hydra(cls) -> "Launch":
        """The launch of the Hydra application that is running."""
        hydra = HydraConfig.get()
        overrides = tuple(hydra.overrides.task)
        keys = {override.lstrip("+").partition("=")[0] for override in overrides}
        return cls(
            overrides=overrides,
            data=str(hydra.runtime.choices["data"]),
            job=hydra.job.num if hydra.mode == RunMode.MULTIRUN else None,
            sets_backbone=not keys.isdisjoint({"backbone", "backbone.name"}),
            sets_lr="optimizer.lr" in keys,
        )
