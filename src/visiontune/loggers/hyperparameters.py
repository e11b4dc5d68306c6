"""The config as flat, readable hyper-parameters."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

# What says where a run goes and how it was started, not what it is.
LEFT_OUT = ("run", "run_dir", "sweep_dir", "paths", "logger", "callbacks", "trust", "name", "note")


def flatten(cfg: DictConfig) -> dict[str, Any]:
    """`{"optimizer": "AdamW", "optimizer.lr": 0.001, ...}`: the resolved config without nulls, lists as text."""
    params: dict[str, Any] = {}
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    for key, value in container.items():
        if key not in LEFT_OUT:
            _flatten(str(key), value, params)
    return params


def _flatten(name: str, value: Any, params: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "_target_":
                params[name] = str(inner).rpartition(".")[2]
            elif key != "_partial_":
                _flatten(f"{name}.{key}", inner, params)
    elif isinstance(value, bool | int | float | str):
        params[name] = value
    elif value is not None:
        params[name] = str(value)
