"""Continue a run in its own directory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from visiontune import __version__
from visiontune.callbacks.exact_resume import saved_ranks
from visiontune.errors import UserError, some
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import log
from visiontune.runs.log_files import cut_log_files
from visiontune.training.load import check_trusted, read_checkpoint

# Everything else, such as the learning rate, stands in the checkpoint or decides what the run is.
CHANGEABLE = (
    "trainer.",
    "data.root",
    "data.num_workers",
    "data.cache",
    "callbacks.",
    "checkpoints.",
    "distill.teacher",
)


def continued(run: RunDirectory, overrides: list[str]) -> tuple[DictConfig, Path | None]:
    """The run's config with the values of `overrides` on top, and the checkpoint to continue from.

    A run that was stopped before its first checkpoint starts over in place (the checkpoint is None).

    Raises:
        UserError: a finished run that no further epochs are asked of, an override that a run cannot take, no
            checkpoint that can be read.
    """
    cfg = run.read_config()
    if cfg.get("backend"):
        raise UserError(
            f"the model of {run.path} is a file, which cannot be trained; start a new run from the weights that it was "
            f"made of with weights_from={run.path}"
        )
    parsed = OverridesParser.create().parse_overrides(overrides)
    check_trusted(cfg, trust=any(override.key_or_group == "trust" and override.value() is True for override in parsed))
    before = cfg.trainer.max_epochs
    for override in parsed:
        key = "trainer.max_epochs" if override.key_or_group == "epochs" else override.key_or_group
        if key in ("run", "trust", "debug"):  # of this call, not of the run
            continue
        if not key.startswith(CHANGEABLE) or OmegaConf.is_config(OmegaConf.select(cfg, key)):
            raise UserError(
                f"{override.input_line}: a run continues as it was begun; what may change is how long and where, such "
                f"as trainer.max_epochs={before + 10}. To start anew from its weights: weights_from={run.path}"
            )
        OmegaConf.update(cfg, key, override.value())
    if root := cfg.data.get("root"):
        cfg.data.root = str(Path(root).expanduser().resolve())  # a run is read from other places as well
    if run.finished and cfg.trainer.max_epochs <= before:
        raise UserError(
            f"{run.path} is finished: ask for more epochs with trainer.max_epochs={before + 10}, or start a new run "
            f"from its weights with weights_from={run.path}"
        )
    with open_dict(cfg):
        # Unfreezing was planned for this many epochs; more of them freeze nothing again.
        cfg.planned_epochs = cfg.get("planned_epochs", before)
    return cfg, _newest(run)


def _newest(run: RunDirectory) -> Path | None:
    """`last.ckpt`; where it cannot be read the one before, then the best."""
    spoiled = []
    for name in ("last", "previous", "best"):
        path = run.checkpoints / f"{name}.ckpt"
        if not path.is_file():
            continue
        try:
            _check_whole(path)
            read_checkpoint(path)
            return path
        except UserError as error:
            spoiled.append(str(error))
    if spoiled:
        raise UserError(
            f"no checkpoint of {run.path} can be read, so that it cannot go on; begin a new run, or put a copy of "
            f"{run.checkpoints / 'last.ckpt'} there. {spoiled[0]}"
        )
    return None


def _check_whole(path: Path) -> None:
    """Every byte against the sums in the file, which `torch.load` does not look at."""
    try:
        with ZipFile(path) as file:
            spoiled = file.testzip()
    except Exception as error:  # zipfile and zlib have a type for each way in which a file may be corrupt
        raise UserError(f"{path} is not whole: {error}") from error
    if spoiled:
        raise UserError(f"{path} is not whole: the sum of {spoiled} is wrong")


def check_fits(run: RunDirectory, model: FineTuner, checkpoint: Path, epochs: int, world: int) -> None:
    """
    Raises:
        UserError: weights or optimizer of the checkpoint are of another network than the config builds now, it has
            more than `epochs` behind it, or lies within an epoch that not `world` processes share.
    """
    state = _read(checkpoint)
    if "optimizer_states" not in state:
        raise UserError(
            f"{run.path} was made by a step of compress, not by a training that could go on; start a new run from its "
            f"weights with weights_from={run.path}"
        )
    if (done := state["visiontune"]["epochs"]) > epochs:
        raise UserError(f"trainer.max_epochs={epochs}: {run.path} has trained for {done} epochs; write {done} or more")
    before = saved_ranks(state)
    if before != world and state.get("VisionData", {}).get("done"):
        raise UserError(
            f"trainer.devices={world}: {checkpoint} lies within an epoch of {before} processes; write "
            f"trainer.devices={before}, or begin anew from its weights with weights_from={run.path}"
        )
    own = {name: value.shape for name, value in model.state_dict().items()}
    kept = {name: value.shape for name, value in state.get("current_model_state", state["state_dict"]).items()}
    other = sorted(name for name in own.keys() | kept.keys() if own.get(name) != kept.get(name))
    if not other:
        groups = state["optimizer_states"][0]["param_groups"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in model.param_groups()]:
            other = ["the optimizer's groups"]
    if other:
        made = state["visiontune"]["version"]
        raise UserError(
            f"{checkpoint} (visiontune {made}) does not fit what its config builds now (visiontune {__version__}): "
            f"{some(other)}. Continue it with the code that made it, or start a new run from its weights with "
            f"weights_from={run.path}"
        )


def rewind(run: RunDirectory, checkpoint: Path | None) -> None:
    """Drop what the run wrote after the checkpoint, and say where it goes on: it will write the same again.

    (`History` drops the rows of metrics.csv.)
    """
    for half in run.checkpoints.glob(".*.ckpt.*"):
        half.unlink()
    if checkpoint is None:
        run.history.unlink(missing_ok=True)
        cut_log_files(run.path, {})
        return
    state = _read(checkpoint)
    if "log_files" in state:
        cut_log_files(run.path, state["log_files"])
    text = f"goes on after step {state['global_step']}"
    if checkpoint.name != "last.ckpt":
        text += f", from {checkpoint.name}: last.ckpt is gone or corrupt"
    if state["visiontune"]["version"] != __version__:
        text += f"; it was made with visiontune {state['visiontune']['version']}, this is {__version__}"
    log.info(text)


@contextmanager
def explain_version_mismatch(run: RunDirectory) -> Iterator[None]:
    """Says of a config that this version cannot read which version wrote it."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        made = json.loads(run.environment.read_text())["packages"]["visiontune"] if run.environment.is_file() else None
        if made in (None, __version__):
            raise
        raise UserError(
            f"{run.config} is of visiontune {made}, and this is {__version__}: {str(error).splitlines()[0]}. Continue "
            f"it with visiontune {made}, or start a new run from its weights with weights_from={run.path}"
        ) from error


def _read(checkpoint: Path) -> dict[str, Any]:
    """As `read_checkpoint`, but tensors stay on the disk until they are looked at."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
