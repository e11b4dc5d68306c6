"""Old names of options and keys, and what to write instead."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from visiontune.errors import UserError, shell_override

# Options of a group: old -> new.
OPTIONS = {
    "strategy=ema": "technique=[ema] strategy=full",
    "strategy=swa": "technique=[swa] strategy=full",
    "strategy=sam": "technique=[ema,sam] strategy=full",
    "strategy=l2_sp": "technique=[ema,l2_sp] strategy=full",
    "strategy=wise_ft": "technique=[ema,wise_ft] strategy=full",
    "strategy=auto_rgn": "technique=[ema,auto_rgn] strategy=full",
    "strategy=auto": "search=strategy",
    "strategy=base": "strategy=full",
    "backbone=default": "backbone=efficientnet_lite0",
}
# Keys: old -> new, preceded by the options that the new key needs.
KEYS = {
    "strategy.cache": "frozen_features.cache",
    "strategy.views": "frozen_features.views",
    "strategy.cache_bits": "frozen_features.bits",
    "strategy.cache_gb": "frozen_features.max_gb",
    "strategy.candidates": "search=strategy search.candidates",
    "strategy.epochs": "search=strategy search.epochs",
    "strategy.pictures": "search=strategy search.images",
    "strategy.thawed_by": "strategy.unfrozen_by",
    "strategy.rates": "strategy.lr_scales",
    "sam": "technique=[ema,sam] technique.sam.rho",
    "wise_ft": "technique=[ema,wise_ft] technique.wise_ft.factors",
    "callbacks.weight_average": "technique.ema",
    "callbacks.l2_sp": "technique=[ema,l2_sp] technique.l2_sp",
    "callbacks.auto_rgn": "technique=[ema,auto_rgn] technique.auto_rgn",
    "callbacks.first_batch.pictures": "callbacks.first_batch.images",
}
# Keys that are also accepted under their old name: verb -> old -> new.
ACCEPTED = {"predict": {"pictures": "images"}, "export": {"pictures": "images"}}


def check_overrides(overrides: Iterable[str]) -> None:
    """Refuse old names on the command line.

    Raises:
        UserError: an old name is used; the message has the new one.
    """
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if override == "~callbacks.weight_average":
            raise UserError(f"{override}: weight averaging is a technique now; write technique=none")
        if key == "strategy" and value.startswith("["):
            raise UserError(
                f"{override}: strategy takes one option, and techniques have their own key; write {_split(value)}"
            )
        for option in value.split(","):
            if new := OPTIONS.get(f"{key}={option}"):
                raise UserError(f"{key}={option} has a new name: write {new}")
        for old, new in KEYS.items():
            if key == old or key.startswith(f"{old}."):
                raise UserError(f"{key} has a new name: write {new}{shell_override(key.removeprefix(old), value)}")


def _split(value: str) -> str:
    """Rewrite `[lp_ft,l2_sp]` as `strategy=lp_ft technique=[ema,l2_sp]`."""
    options = [option.strip() for option in value.strip("[]").split(",")]
    techniques = [option for option in options if OPTIONS.get(f"strategy={option}", "").startswith("technique=")]
    strategies = [f"strategy={option}" for option in options if option not in techniques] or ["strategy=full"]
    average = [] if {"ema", "swa"} & set(techniques) else ["ema"]
    return f"{OPTIONS.get(strategies[0], strategies[0])} technique=[{','.join(average + techniques)}]"


def check_keys(cfg: DictConfig) -> None:
    """Refuse old keys in a composed config; they may come from a user's own YAML file.

    Raises:
        UserError: an old key is used; the message has the new one.
    """
    for old, new in KEYS.items():
        parent, _, leaf = old.rpartition(".")
        node: Any = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, DictConfig) and leaf in node:
            raise UserError(f"{old} has a new name: write {new}")


def accept_old_keys(verb: str, overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Replace accepted old names in the overrides; return the overrides and a note about each old name."""
    renamed, notes = [], []
    for override in overrides:
        key, sign, value = override.partition("=")
        new = ACCEPTED.get(verb, {}).get(key)
        if sign and new:
            notes.append(f"note: {key} is now called {new}: write {shell_override(new, value)}")
        renamed.append(f"{new}={value}" if sign and new else override)
    return renamed, notes
