"""Evaluate a run on a split, or on another labelled data set."""

from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from visiontune.analysis.results import write_report, write_results
from visiontune.config.check import check
from visiontune.config.derive import derive
from visiontune.data import TaskInfo, VisionData, build_evaluation_data
from visiontune.deployment.evaluation import evaluate_run
from visiontune.errors import RunError, UserError, one_line, rename_keys
from visiontune.runs.directory import RunDirectory
from visiontune.runs.links import check_links
from visiontune.runs.log import log, logging_to
from visiontune.runs.output import check_output, check_results
from visiontune.training.build import build_data
from visiontune.training.evaluation import measured_splits
from visiontune.training.load import load_model, open_run

# Keys of train in messages about the data -> what to write here.
KEYS = {"data.root": "data_root", "data.on_bad_image=skip": "data_keys='{on_bad_image: skip}'"}


def main(cfg: DictConfig) -> dict[str, float]:
    """Print the metrics of one split; write them, the predictions and the report as `output` and `report` say."""
    run, run_cfg = open_run(cfg.run, cfg.trust)
    if cfg.split == "all" and cfg.report and cfg.output is None:
        raise UserError("report=true split=all: the report of the run stays; write output=DIR")
    output = None if cfg.output is None else check_output(Path(cfg.output))
    if output is not None:
        check_results(output, ("predictions.csv", "metrics.json", "report"))
    changes = {f"data.{key}": value for key, value in (cfg.data_keys or {}).items()}
    changes |= {"data.root": cfg.data_root} if cfg.data_root is not None else {}
    changes |= {"trainer.accelerator": cfg.accelerator} if cfg.accelerator != "auto" else {}
    if cfg.data_root is not None and "root" not in run_cfg.data:
        raise UserError(f"data_root={cfg.data_root}: the data of {run.path} is made without a folder; leave it out")
    run_cfg = derive(run_cfg, changes)
    check("train", run_cfg)  # the values of data_keys
    folder = output or (run.path if cfg.report else None)
    if folder == run.path and not cfg.trust:
        check_links(run.path)
    with logging_to(None), run.lock() if folder == run.path else nullcontext():
        model, schema = load_model(run, run_cfg, cfg.checkpoint)
        with rename_keys(KEYS):
            data = read_data(cfg, run, run_cfg, schema)
        splits = measured_splits(run_cfg, data) if cfg.report and output is None else [cfg.split]
        which = cfg.backend, cfg.checkpoint, cfg.trust
        results = [evaluate_run(run, run_cfg, model, data, split, *which) for split in splits]
        metrics = {name: value for result in results for name, value in result.metrics.items()}
        print("\n".join(f"{one_line(name):<41} {value:.8f}" for name, value in sorted(metrics.items())))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_results(run, results, folder)
            if cfg.report:
                write_report(run_cfg, run, data, model, results, folder / run.report.name)
            print(folder)
    for result in results:
        for task, failure in result.failures.items():
            raise RunError(f"{result.split} has no metrics of {task}: {failure}")
    return metrics


def read_data(cfg: DictConfig, run: RunDirectory, run_cfg: DictConfig, schema: dict[str, TaskInfo]) -> VisionData:
    """The run's data with the run's splits; with `split=all`, all samples with the classes of the run."""
    download = cfg.trust or "download" in (cfg.data_keys or {})
    if cfg.split == "all":
        names = cfg.classes or {}
        data = build_evaluation_data(run_cfg.data, run_cfg.augment, schema, names, run_cfg.seed, download)
        for note in data.notes:
            log.info(f"note: {note}")
        return data
    if cfg.data_keys or cfg.classes:
        raise UserError(f"data_keys and classes are for another data set: write split=all, not split={cfg.split}")
    try:
        data = build_data(run_cfg, download)
        data.assign_as(run.splits)
    except UserError as error:
        if cfg.data_root is None:
            raise
        raise UserError(
            f"{str(error).rstrip('.')}. If data_root={cfg.data_root} is another data set, write split=all"
        ) from error
    return data
