"""Data: readers, splits, augmentation and loaders."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from visiontune.data.augmentation import Augment
from visiontune.data.datamodule import VisionData
from visiontune.data.loaders import file_loader, to_network
from visiontune.data.schema import Sample, Source, TaskInfo
from visiontune.errors import UserError

__all__ = ["Augment", "Sample", "Source", "TaskInfo", "VisionData", "build", "file_loader", "to_network"]


def build(data: Mapping[str, Any], augment: Mapping[str, Any] | None = None, seed: int = 0) -> VisionData:
    """The data of a config: `data.reader` is called, the keys that VisionData knows go to it by name.

    Args:
        data: the group `data`; interpolations in it are resolved.
        augment: the group `augment`; none means none.

    Raises:
        UserError: whatever is wrong with the config or the data.
    """
    settings = _plain(data)
    reader = dict(settings.pop("reader"))
    known = {*inspect.signature(VisionData).parameters} - {"source", "augment", "seed"}
    for key in settings:
        if key not in known and key not in reader:
            hint = get_close_matches(key, [*known, *reader], n=1)
            raise UserError(
                f"data.{key} is no key of this data set" + (f"; did you mean data.{hint[0]}?" if hint else "")
            )
    # A run's saved config is resolved: a key changed since, such as data.root, has to reach the reader all the same.
    reader |= {key: value for key, value in settings.items() if key in reader}
    source = get_method(reader.pop("_target_"))(**reader)
    chosen = {key: value for key, value in settings.items() if key in known}
    return VisionData(source, augment=Augment.from_config(_plain(augment or {})), seed=seed, **chosen)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    return dict(config)
