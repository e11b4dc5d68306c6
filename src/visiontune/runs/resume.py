"""Continue a run in its own directory."""

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.load import check_trusted

# Everything else, such as the learning rate, stands in the checkpoint or decides what the run is.
CHANGEABLE = ("trainer.", "data.root", "data.num_workers", "data.cache", "callbacks.")


def continued(path: str, overrides: list[str]) -> tuple[RunDirectory, DictConfig, Path | None]:
    """The run, its config with the values of `overrides` on top, and the checkpoint to continue from.

    A run that was stopped before its first checkpoint starts over in place (the checkpoint is None).

    Raises:
        UserError: no run, a finished one that no further epochs are asked of, an override that a run cannot take.
    """
    run = RunDirectory.open(path)
    cfg = run.read_config()
    check_trusted(cfg, trust="trust=true" in overrides)
    before = cfg.trainer.max_epochs
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key in ("run", "trust", "debug"):  # of this call, not of the run
            continue
        if not key.startswith(CHANGEABLE) or OmegaConf.is_config(OmegaConf.select(cfg, key)):
            raise UserError(
                f"{override.input_line}: a run continues as it was begun; what may change is how long and where, such "
                f"as trainer.max_epochs={before + 10}. To start anew from its weights: weights_from={path}"
            )
        OmegaConf.update(cfg, key, override.value())
    if run.read_status()["status"] == "finished" and cfg.trainer.max_epochs <= before:
        raise UserError(
            f"{path} is finished: ask for more epochs with trainer.max_epochs={before + 10}, or start a new run from "
            f"its weights with weights_from={path}"
        )
    last = run.checkpoints / "last.ckpt"
    return run, cfg, last if last.is_file() else None
