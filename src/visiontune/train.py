"""Fine-tune a network: data, model, trainer, fit, measure."""

import csv
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from visiontune.analysis.plan import plan, trained_parameters
from visiontune.analysis.results import report
from visiontune.config.devices import processes
from visiontune.data import VisionData
from visiontune.loggers import open_loggers
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.runs.environment import environment
from visiontune.runs.files import write_atomically, write_json
from visiontune.runs.log import log, logging_to
from visiontune.search.combination import check_combination
from visiontune.search.trials import Tried, chosen_by_trial
from visiontune.training.evaluation import Evaluation, evaluate
from visiontune.training.fit import fit, prepare
from visiontune.training.launch import launch
from visiontune.training.load import adopt_weights, read_checkpoint
from visiontune.training.memory import forget_peak, peak_mb
from visiontune.training.resume import check_fits, continued, explain_version_mismatch, rewind
from visiontune.training.wise_ft import interpolate


def main(cfg: DictConfig) -> float:
    """What Hydra calls: one run, or one job of a sweep. Returns the monitored metric of the best checkpoint."""
    overrides = list(HydraConfig.get().overrides.task)
    if cfg.run is not None:
        run = RunDirectory.open(cfg.run)
        with run.lock():
            cfg, checkpoint = continued(run, overrides)
            with explain_version_mismatch(run):
                return train(cfg, run, checkpoint)
    cfg, tried = chosen_by_trial(complete(cfg), overrides, complete, train)
    return train(cfg, overrides=overrides, tried=tried)


def complete(cfg: DictConfig) -> DictConfig:
    """Decide what the config leaves to the circumstances: the run's name and place, the test split, the backbone."""
    hydra = HydraConfig.get()
    check_combination(list(hydra.overrides.task))
    sweeping = hydra.mode == RunMode.MULTIRUN
    with open_dict(cfg):
        if cfg.test == "auto":
            cfg.test = not sweeping or cfg.data.folds is not None
        if root := cfg.data.get("root"):
            cfg.data.root = str(Path(root).expanduser().resolve())  # a run is read from other places as well
        if cfg.name is None:
            cfg.name = cfg.data.get("name") or (Path(cfg.data.root).name if root else hydra.runtime.choices["data"])
        if cfg.weights_from is not None:
            adopt_weights(cfg, list(hydra.overrides.task))
        if sweeping:
            cfg.run_dir = str(Path(cfg.sweep_dir) / f"{hydra.job.num:03d}")
    return cfg


def train(
    cfg: DictConfig,
    run: RunDirectory | None = None,
    checkpoint: Path | None = None,
    overrides: list[str] | None = None,
    tried: Tried | None = None,
) -> float:
    """A whole run. `cfg` is complete: `configs/train.yaml` composed, no `auto` left in `test` or `name`.

    Args:
        run: the directory to continue in; None makes a new one.
        checkpoint: what to continue from.
        overrides: what the command line said, for the tables of `compare`.
        tried: what was tried to make `cfg`.
    Returns:
        The monitored metric of the best checkpoint on the validation split.
    """
    forget_peak()
    with logging_to(None):
        data, model, weights = prepare(cfg, load=checkpoint is None)
        count = processes(cfg)
        if run is not None and run.splits.is_file():
            data.assign_as(run.splits, grown=False)
        if run is not None and checkpoint is not None:
            check_fits(run, model, checkpoint, cfg.trainer.max_epochs, count)
        if run is None:
            run = (
                RunDirectory.create(Path(cfg.run_dir).expanduser())
                if cfg.run_dir
                else RunDirectory.new(Path(cfg.paths.logs).expanduser(), cfg.name)
            )
    with run.running() as outcome, logging_to(run.log), open_loggers(cfg, run.path) as loggers:
        record(cfg, run, data, overrides or [])
        rewind(run, checkpoint)
        if tried is not None:
            tried.write(run)
        log.info(plan(cfg, data, model, weights, count, run.path))
        try:
            if count > 1:
                launch(run, count, checkpoint)
            else:
                fit(cfg, run, data, model, checkpoint, loggers)
        except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into the second
            log.info(f"\ninterrupted; continue with: visiontune train run={run.path}")
            raise
        if cfg.wise_ft is not None:
            interpolate(run, model, data, cfg.wise_ft, cfg.trainer.accelerator, cfg.trainer.precision)
        results = measure(cfg, run, data, model)
        report(cfg, run, data, model, results, loggers)
        outcome["objective"] = best_of(run, model, results)
        outcome["trained_parameters"] = trained_parameters(model, cfg.trainer.max_epochs)
        outcome["peak_memory_mb"] = round(peak_mb(), 1)
    print(run.path)
    return outcome["objective"]["value"]


def record(cfg: DictConfig, run: RunDirectory, data: VisionData, overrides: list[str]) -> None:
    """Config, environment and splits: what the run is, before it has done anything."""
    if not run.splits.is_file():  # else continued: it is what it was
        write_json(run.environment, environment(cfg.seed, overrides, tags=list(cfg.tags), note=cfg.note))
        with write_atomically(run.splits) as file:
            writer = csv.DictWriter(file, ["path", "split", "group", "content", "labels"])
            writer.writeheader()
            writer.writerows(data.splits_rows())
    run.write_config(cfg)  # the last: with it the run has begun, and can be continued


def measure(cfg: DictConfig, run: RunDirectory, data: VisionData, model: FineTuner) -> list[Evaluation]:
    """The best checkpoint on the validation split, and on the test split where it may be looked at; on one device."""
    model.load_state_dict(read_checkpoint(run.checkpoint("best"))["state_dict"])
    return [
        evaluate(model, data, split, cfg.trainer.accelerator, cfg.trainer.precision) for split in measured(cfg, data)
    ]


def measured(cfg: DictConfig, data: VisionData) -> list[str]:
    """The splits that are looked at when a run ends."""
    return ["val", "test"] if cfg.test and data.samples("test") else ["val"]


def best_of(run: RunDirectory, model: FineTuner, results: list[Evaluation]) -> dict[str, Any]:
    """The monitored metric of the best checkpoint, and the epoch after which it was written (0: before the first)."""
    (name, mode), state = model.monitor, read_checkpoint(run.checkpoint("best"))
    return {"name": name, "mode": mode, "value": results[0].metrics[name], "epoch": state["visiontune"]["epochs"]}
