"""Composing configs once per choice of files. Hydra would read and merge thirty files for each command."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from omegaconf import DictConfig

from visiontune.config.compose import config_dir

STATIC = {"pkg://hydra.conf", "structured://", f"file://{config_dir()}"}


def compose_files_once(patch: pytest.MonkeyPatch) -> None:
    """Merge the same files (`data=coco heads=detection`) once per process, and apply other overrides to a copy.

    Other folders (`--config-dir`) are read each time, since tests write into them.
    """
    lists: dict[Any, DefaultsList] = {}
    configs: dict[int, DictConfig] = {}  # by the identity of the files in `lists`
    create, compose = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list

    def create_defaults_list(*, repo: Any, config_name: str | None, overrides_list: list[Any], **options: Any) -> Any:
        arguments = {"repo": repo, "config_name": config_name, "overrides_list": overrides_list, **options}
        sources = tuple(f"{source.scheme()}://{source.path.split('://')[-1]}" for source in repo.get_sources())
        if not STATIC.issuperset(sources):
            return create(**arguments)
        values = Overrides(repo, overrides_list).config_overrides
        groups = [override.input_line for override in overrides_list if not any(override is value for value in values)]
        key = (sources, config_name, *groups, *options.items())
        if key not in lists:
            lists[key] = create(**arguments)
        return replace(lists[key], config_overrides=values)

    def compose_config(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
        if not any(defaults is files.defaults for files in lists.values()):
            return compose(loader, defaults, repo)
        if id(defaults) not in configs:
            configs[id(defaults)] = compose(loader, defaults, repo)
        return deepcopy(configs[id(defaults)])

    patch.setattr(config_loader_impl, "create_defaults_list", create_defaults_list)
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_config)
