"""Resume a run in its own directory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from visiontune import __version__
from visiontune.callbacks.exact_resume import saved_ranks
from visiontune.config.check import MissingKey, check
from visiontune.config.derive import derive
from visiontune.errors import RunError, UserError, explain_write, failed_write, first_line, shell_override, some
from visiontune.models.backbones import WeightReport
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.log import log, logging_to
from visiontune.runs.log_files import cut_log_files
from visiontune.runs.torch_file import check_sums, load_torch_file
from visiontune.signals import Interrupted, Paused
from visiontune.training.load import check_config, read_checkpoint, version_mismatch, written_by
from visiontune.training.resolve import resolve_machine

# Keys that a resumed run may change. All others, such as the learning rate, are in the checkpoint or define the run.
CHANGEABLE = (
    "trainer.",
    "data.root",
    "data.num_workers",
    "data.cache",
    "callbacks.",
    "technique.ema.",
    "technique.swa.",
    "technique.l2_sp.",
    "technique.auto_rgn.",
    "checkpoints.",
    "on_nonfinite",
    "distill.teacher",
)


def resume_config(run: RunDirectory, overrides: Sequence[str]) -> tuple[DictConfig, Path | None]:
    """The run's config with `overrides` applied, read-only, and the checkpoint to resume from.

    The checkpoint is None if the run has none; it then starts from the beginning in its directory.

    Raises:
        UserError: the run is finished and no more epochs are requested, an override changes a key that a resumed run
            must keep, or no checkpoint can be read.
    """
    cfg = run.read_config()
    if cfg.get("backend"):
        raise UserError(
            f"the model of {run.path} is an exported file, which cannot be trained; start a new run from the original "
            f"weights with {shell_override('weights_from', run.path)}"
        )
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    trust = any(override.key_or_group == "trust" and override.value() is True for override in parsed)
    check_config(run, cfg, trust, loggers=True)
    OmegaConf.update(cfg, "trust", trust)  # what the config says gives no trust, not even to its teacher
    before = cfg.trainer.max_epochs
    for override in parsed:
        key = "trainer.max_epochs" if override.key_or_group == "epochs" else override.key_or_group
        if key in ("run", "trust", "debug"):  # keys of this command, not of the run
            continue
        if not key.startswith(CHANGEABLE) or OmegaConf.is_config(OmegaConf.select(cfg, key)):
            raise UserError(
                f"{override.input_line}: a resumed run keeps its config; what may change is how long and where it "
                f"trains, such as trainer.max_epochs={before + 10}. To start a new run from its weights: "
                f"{shell_override('weights_from', run.path)}"
            )
        OmegaConf.update(cfg, key, override.value())
    cfg = resolve_machine(check("train", cfg))
    if run.finished and cfg.trainer.max_epochs <= before:
        raise UserError(
            f"{run.path} is finished: ask for more epochs with trainer.max_epochs={before + 10}, or start a new run "
            f"from its weights with {shell_override('weights_from', run.path)}"
        )
    # The strategy planned for this many epochs. It keeps that plan, so that more epochs do not freeze a stage again.
    return derive(cfg, {"planned_epochs": cfg.get("planned_epochs", before)}), _newest(run)


def _newest(run: RunDirectory) -> Path | None:
    """The first readable checkpoint of last, previous and best; None if there is no checkpoint.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    errors = []
    for name in ("last", "previous", "best"):
        path = run.checkpoints / f"{name}.ckpt"
        if not path.is_file():
            continue
        try:
            check_sums(path)
            read_checkpoint(path)
            return path
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError(
            f"no checkpoint of {run.path} can be read, so it cannot be resumed; start a new run, or copy an intact "
            f"{run.checkpoints / 'last.ckpt'} there. {errors[0]}"
        )
    return None


def check_weights(run: RunDirectory, report: WeightReport) -> None:
    """Check that a run without a checkpoint has the pretrained weights that it begins with.

    Raises:
        UserError: they would have to be downloaded, which needs trust.
    """
    if report.missing_download:
        raise UserError(
            f"{run.path} has no checkpoint, and it begins with weights that would have to be downloaded "
            f"({report.source}): write trust=true to download them"
        )


def check_fits(run: RunDirectory, model: FineTuner, checkpoint: Path, epochs: int, world: int) -> None:
    """Check that a run can resume from a checkpoint for `epochs` epochs on `world` ranks.

    Raises:
        UserError: the checkpoint was not trained but made from others, it has trained for more epochs, it was written
            within an epoch by another number of ranks, or its weights or optimizer do not fit `model`.
    """
    state = _read(checkpoint)
    try:
        _check_fits(run, model, checkpoint, state, epochs, world)
        lengths = state.get("log_files", {})
        states = [state.get(name, {}) for name in ("loops", "callbacks", "VisionData")]
        is_valid = isinstance(state["global_step"], int) and all(isinstance(part, dict) for part in states)
        is_valid = is_valid and all(isinstance(n, int) and n >= 0 for n in lengths.values())
        is_valid = is_valid and all(isinstance(part, dict) for part in state.get("loops", {}).values())
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):  # another program wrote it
        is_valid = False
    if not is_valid:
        raise UserError(
            f"{checkpoint} is not a checkpoint that train wrote: start a new run with weights_from={run.path}"
        )


def _check_fits(
    run: RunDirectory, model: FineTuner, checkpoint: Path, state: dict[str, Any], epochs: int, world: int
) -> None:
    if "optimizer_states" not in state:
        raise UserError(
            f"{run.path} was made by compress or soup=greedy and has no training to resume; start a new run "
            f"from its weights with {shell_override('weights_from', run.path)}"
        )
    if (trained := state["visiontune"]["epochs"]) > epochs:
        raise UserError(
            f"trainer.max_epochs={epochs}: {run.path} has trained for {trained} epochs; write {trained} or more"
        )
    before = saved_ranks(state)
    if before != world and state.get("VisionData", {}).get("done"):
        raise UserError(
            f"trainer.devices={world}: {checkpoint} was written within an epoch of {before} ranks; write "
            f"trainer.devices={before}, or start a new run from its weights with "
            f"{shell_override('weights_from', run.path)}"
        )
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    saved = {name: value.shape for name, value in state.get("current_model_state", state["state_dict"]).items()}
    changed = sorted(name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name))
    if not changed:
        groups = state["optimizer_states"][0]["param_groups"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in model.param_groups()]:
            changed = ["the optimizer's groups"]
    if changed:
        version = state["visiontune"]["version"]
        raise UserError(
            f"{checkpoint} (visiontune {version}) does not fit what its config builds now (visiontune {__version__}): "
            f"{some(changed)}. Resume it with the code that made it, or start a new run from its weights with "
            f"{shell_override('weights_from', run.path)}"
        )


def rewind(run: RunDirectory, checkpoint: Path | None) -> None:
    """Delete what the run wrote after the checkpoint, since it will write it again, and log where it resumes.

    `History` deletes the rows of metrics.csv.
    """
    for incomplete in run.checkpoints.glob(".*.ckpt*"):
        incomplete.unlink()
    if checkpoint is None:
        run.history.unlink(missing_ok=True)
        cut_log_files(run.path, {})
        return
    state = _read(checkpoint)
    if "log_files" in state:
        cut_log_files(run.path, state["log_files"])
    text = f"resumes after step {state['global_step']}"
    if checkpoint.name != "last.ckpt":
        text += f", from {checkpoint.name}: last.ckpt is missing or corrupt"
    if state["visiontune"]["version"] != __version__:
        text += f"; it was made with visiontune {state['visiontune']['version']}, this is {__version__}"
    log.info(text)


@contextmanager
def explain_version_mismatch(run: RunDirectory) -> Iterator[None]:
    """Turn an error about a config that another version wrote into a UserError that names this version."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, MissingKey) as error:
        if written_by(run) in (None, __version__):
            raise
        raise version_mismatch(run, first_line(error)) from error


@contextmanager
def explain_failed_write(run: RunDirectory) -> Iterator[None]:
    """Turn the error of a disk that is full or read-only into a RunError that says what to do."""
    try:
        yield
    except Exception as error:
        cause = failed_write(error, run.path)
        if cause is None:
            raise
        raise RunError(f"{explain_write(cause, run.path)}, then resume the run with: {resume_command(run)}") from error


@contextmanager
def explain_interruption(run: RunDirectory) -> Iterator[None]:
    """Log how to resume a run that a signal or `checkpoints.pause_after` stops."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt, SystemExit) as error:
        event = error.event if isinstance(error, Interrupted) else "interrupted"
        change = " checkpoints.pause_after=null" if isinstance(error, Paused) else ""
        with suppress(OSError), logging_to(run.log):  # the disk may be full
            log.info(f"\n{event}; resume with: {resume_command(run)}{change}")
        raise


def resume_command(run: RunDirectory) -> str:
    """The command that resumes a run, as one types it in a shell."""
    return f"visiontune train {shell_override('run', run.path)}"


def _read(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors stay on the disk until they are used."""
    return load_torch_file(checkpoint, mmap=True)
