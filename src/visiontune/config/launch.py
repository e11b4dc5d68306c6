"""How a run was launched: what Hydra knows in addition to the config."""

from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Launch:
    """How `train` was launched; the defaults describe a call from Python.

    Attributes:
        overrides: overrides of the command line, or of one job of a sweep.
        data: the option of the group `data`, which is the name of runs without a data folder.
        job: the number of the job in a sweep; None outside a sweep.
        sets_backbone: whether the command line chooses the backbone; otherwise `weights_from` does.
        backbone: the option of the group `backbone` on the command line, if there is one.
        backbone_keys: keys of `backbone` that the command line sets; they change the backbone of `weights_from`.
        sets_lr: whether the command line sets the learning rate, which a search then keeps.
    """

    overrides: tuple[str, ...] = ()
    data: str = "data"
    job: int | None = None
    sets_backbone: bool = False
    backbone: str | None = None
    backbone_keys: tuple[str, ...] = ()
    sets_lr: bool = False

    @classmethod
    def from_hydra(cls, hydra: DictConfig | None = None) -> "Launch":
        """The launch of the Hydra application that is running.

        Args:
            hydra: its node `hydra`, if it is not running.
        """
        node: Any = HydraConfig.get() if hydra is None else hydra
        overrides = tuple(node.overrides.task)
        values = {key: value for key, _, value in (override.lstrip("+").partition("=") for override in overrides)}
        keys = values.keys()
        return cls(
            overrides=overrides,
            data=str(node.runtime.choices["data"]),
            job=None if OmegaConf.is_missing(node.job, "num") else node.job.num,
            sets_backbone=not keys.isdisjoint({"backbone", "backbone.name"}),
            backbone=values.get("backbone"),
            backbone_keys=tuple(sorted(key.split(".")[1] for key in keys if key.startswith("backbone."))),
            sets_lr="optimizer.lr" in keys,
        )
