"""Compose the configs of many jobs."""

from copy import deepcopy

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict


class Composer:
    """Composes the configs of jobs.

    Jobs that differ only in values of keys share what Hydra has merged from files, which takes most of the time.
    """

    def __init__(self, config_name: str, overrides: list[str]) -> None:
        """Args:
        overrides: the overrides that all jobs have; others may be among them.
        """
        self._config_name = config_name
        self._common = set(overrides)
        self._configs: dict[tuple[str, ...], DictConfig] = {}  # by options of groups

    def compose(self, overrides: list[str]) -> tuple[DictConfig, DictConfig]:
        """The config of a job, and the node `hydra` that it was composed with.

        Raises:
            HydraException, OmegaConfBaseException: an override is wrong.
        """
        texts = [text for text in overrides if text not in self._common]
        varied = OverridesParser.create().parse_overrides(texts)
        values = [override for override in varied if self._is_value(override)]
        key = tuple(text for text, override in zip(texts, varied, strict=True) if override not in values)
        if key not in self._configs:
            cfg = compose(self._config_name, overrides=overrides, return_hydra_config=True)
            self._configs[key] = deepcopy(cfg)
        else:
            cfg = deepcopy(self._configs[key])
            for override in values:
                OmegaConf.update(cfg, override.key_or_group, override.value())
            cfg.hydra.overrides.task = [text for text in overrides if not text.startswith("hydra")]
        with open_dict(cfg):
            return cfg, cfg.pop("hydra")

    def _is_value(self, override: Override) -> bool:
        """Whether an override only replaces the value of a key that every config has."""
        key = override.key_or_group
        if override.is_add() or override.is_delete() or override.package is not None or key.startswith("hydra"):
            return False
        return bool(self._configs) and all(
            key not in cfg.hydra.runtime.choices
            and OmegaConf.select(cfg, key) is not None
            and not OmegaConf.is_config(OmegaConf.select(cfg, key))
            for cfg in self._configs.values()
        )
