"""Derive a config from another one. A resolved config is never changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf


def derive(cfg: DictConfig, changes: Mapping[str, Any], without: Sequence[str] = ()) -> DictConfig:
    """A read-only copy of `cfg` with other values for dotted keys, such as `{"trainer.max_epochs": 3}`.

    Args:
        without: top-level keys to leave out.
    """
    new = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in without])
    OmegaConf.set_readonly(new, False)
    OmegaConf.set_struct(new, False)
    for key, value in changes.items():
        OmegaConf.update(new, key, value, merge=False)
    OmegaConf.set_readonly(new, True)
    return new
