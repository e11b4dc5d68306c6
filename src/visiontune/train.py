"""Fine-tune a network: seed, data, model, trainer, fit, measure, report."""

import csv
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from visiontune.analysis.plan import plan, trained_parameters
from visiontune.analysis.results import report
from visiontune.config.launch import Launch
from visiontune.data import VisionData
from visiontune.loggers import open_loggers
from visiontune.runs.directory import RunDirectory
from visiontune.runs.environment import environment
from visiontune.runs.files import write_atomically, write_json
from visiontune.runs.links import check_links
from visiontune.runs.log import log, logging_to
from visiontune.search.trials import SearchResult, search
from visiontune.signals import held
from visiontune.training.build import build_data, build_trainer
from visiontune.training.evaluation import best_score, measure
from visiontune.training.fit import build_model, fit, seed_everything
from visiontune.training.launch import fit_ranks
from visiontune.training.memory import forget_peak, peak_mb
from visiontune.training.resolve import resolve
from visiontune.training.resume import (
    check_fits,
    check_weights,
    explain_failed_write,
    explain_interruption,
    explain_version_mismatch,
    resume_config,
    rewind,
)
from visiontune.training.space import check_space
from visiontune.training.wise_ft import interpolate


def main(cfg: DictConfig) -> float:
    """Train or resume one run, or one job of a sweep; return the monitored metric of the best checkpoint."""
    launch = Launch.from_hydra()
    if cfg.run is not None:
        run = RunDirectory.open(str(cfg.run))
        if not cfg.trust:
            check_links(run.path)
        with run.lock(), explain_version_mismatch(run):
            cfg, checkpoint = resume_config(run, launch.overrides)
            return train(cfg, run, checkpoint)
    cfg = resolve(cfg, launch)
    RunDirectory.check_free(Path(cfg.run_dir or Path(cfg.paths.logs, cfg.name, "TIME-ID")).expanduser())
    cfg, result = search(cfg, launch, train)
    return train(cfg, overrides=launch.overrides, search_result=result)


def train(
    cfg: DictConfig,
    run: RunDirectory | None = None,
    checkpoint: Path | None = None,
    overrides: Sequence[str] = (),
    search_result: SearchResult | None = None,
) -> float:
    """Train, evaluate and report one run; return the monitored metric of the best checkpoint on the validation split.

    Args:
        cfg: resolved, see `visiontune.training.resolve`.
        run: the run to resume; None creates a new run directory.
        checkpoint: the checkpoint to resume from.
        overrides: the overrides of the command line, for the tables of `compare`.
        search_result: the trials that chose `cfg`.
    """
    forget_peak()
    seed_everything(cfg.seed)
    with logging_to(None):
        download = run is None or cfg.trust  # a run from elsewhere downloads nothing
        data = build_data(cfg, download)
        if run is not None and run.splits.is_file():
            data.assign_as(run.splits, grown=False)
        model, weights = build_model(cfg, data, download, load=checkpoint is None)
        if run is not None:
            check_weights(run, weights)
        if run is not None and checkpoint is not None:
            check_fits(run, model, checkpoint, cfg.trainer.max_epochs, cfg.trainer.devices)
        place = run.path if run else Path(cfg.run_dir or cfg.paths.logs).expanduser().absolute()
        check_space(cfg, model, place, run.checkpoints if run else None)
        with held():  # a run that has a directory can be resumed: `running` raises a signal that comes here
            run = run or new_run(cfg)
            record(cfg, run, data, overrides)
    with (
        explain_interruption(run),
        run.running() as status,
        explain_failed_write(run),
        logging_to(run.log),
        open_loggers(cfg, run.path) as loggers,
    ):
        rewind(run, checkpoint)
        if search_result is not None:
            search_result.write(run)
        log.info(plan(cfg, data, model, weights, cfg.trainer.devices, run.path))
        if cfg.trainer.devices > 1:
            fit_ranks(run, cfg.trainer.devices, checkpoint)
        else:
            trainer = build_trainer(cfg, run, model, loggers)
            fit(cfg, run, trainer, model, data, checkpoint)
        if "wise_ft" in cfg.technique:
            interpolate(cfg, run, model, data)
        results = measure(cfg, run, data, model)
        report(cfg, run, data, model, results, loggers)
        status["objective"] = best_score(run, model, results)
        status["trained_parameters"] = trained_parameters(model, cfg.trainer.max_epochs)
        status["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        status["peak_memory_mb"] = round(peak_mb(), 1)
    print(run.path)
    return status["objective"]["value"]


def new_run(cfg: DictConfig) -> RunDirectory:
    """Create the directory of a new run: `run_dir`, or a new folder under `paths.logs`."""
    if cfg.run_dir:
        return RunDirectory.create(Path(cfg.run_dir).expanduser())
    return RunDirectory.new(Path(cfg.paths.logs).expanduser(), cfg.name)


def record(cfg: DictConfig, run: RunDirectory, data: VisionData, overrides: Sequence[str]) -> None:
    """Write environment, splits and config before the training begins."""
    if not run.splits.is_file():  # a resumed run keeps them
        write_json(run.environment, environment(cfg.seed, list(overrides), tags=list(cfg.tags), note=cfg.note))
        with write_atomically(run.splits) as file:
            writer = csv.DictWriter(file, ["path", "split", "group", "content", "labels"])
            writer.writeheader()
            writer.writerows(data.splits_rows())
    run.write_config(cfg)  # last: a directory with a config can be resumed
