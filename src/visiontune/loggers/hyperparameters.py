"""The config as flat, readable hyper-parameters."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

# Keys that only say where a run is written and how it was started.
EXCLUDED = ("run", "run_dir", "sweep_dir", "paths", "logger", "callbacks", "checkpoints", "trust", "name", "note")


def flatten(cfg: DictConfig) -> dict[str, Any]:
    """Flatten a config to `{"optimizer": "AdamW", "optimizer.lr": 0.001, ...}`, without nulls, and lists as text."""
    params: dict[str, Any] = {}
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    for key, value in container.items():
        if key not in EXCLUDED:
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
