"""What a finished run leaves: metrics, predictions, images, TensorBoard's HPARAMS, the report page."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchvision.io import write_png

from visiontune.analysis.page import write_page
from visiontune.analysis.tables import render
from visiontune.data import VisionData
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.drawing import grid
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.log import log
from visiontune.runs.predictions import write_predictions
from visiontune.training.evaluation import Evaluation

# TensorBoard shows a column each and filters by them: what people vary, not everything that can be set.
HPARAMS = (
    "strategy", "optimizer", "scheduler", "backbone.name", "backbone.weights", "data.batch_size", "data.image_size",
    "data.fold", "data.per_class", "trainer.max_epochs", "augment.mixup", "l1", "seed",
)  # fmt: skip


def report(cfg: DictConfig, run: RunDirectory, data: VisionData, model: FineTuner, results: list[Evaluation]) -> None:
    """Write everything that stands on the evaluations of the best checkpoint, and log what to look at."""
    metrics = {name: value for result in results for name, value in result.metrics.items()}
    # A metric without a value (a class that the split has nothing of) is left out: NaN is no JSON.
    write_json(run.metrics, {name: value for name, value in metrics.items() if math.isfinite(value)})
    write_predictions(run.predictions, (row for result in results for row in result.rows))
    last = results[-1]
    with SummaryWriter(str(run.tensorboard)) as board:
        pictures = _pictures(run.report, data, model, last, board)
        _hparams(cfg, board, model.monitor[0], metrics[model.monitor[0]])
    write_page(run, last.split, metrics, pictures, cfg.get("compressed_from"))
    log.info("\n" + results_table(results))
    log.info(f"\nbest checkpoint  {run.checkpoints / 'best.ckpt'}")
    log.info(f"report           {run.report / 'index.html'}")
    log.info(f"tensorboard      tensorboard --logdir {run.path}")


def results_table(results: list[Evaluation]) -> str:
    """One row a metric, one column a split; then, for each task that has them, one row a class of the last split."""
    names = list(dict.fromkeys(name.partition("/")[2] for result in results for name in result.metrics))
    rows = []
    for name in names:
        if name.count("/") < 2:
            values = [result.metrics.get(f"{result.split}/{name}", math.nan) for result in results]
            rows.append([name, *(f"{value:.4f}" for value in values)])
    table = render("best checkpoint", ["metric", *(result.split for result in results)], rows)
    return "\n\n".join([table, *_by_class(results[-1])])


def _by_class(result: Evaluation) -> list[str]:
    """A table a task of its metrics `TASK/METRIC/CLASS`."""
    tasks: dict[str, dict[str, dict[str, float]]] = {}
    for name, value in result.metrics.items():
        if name.count("/") > 2:
            _, task, metric, label = name.split("/", 3)
            tasks.setdefault(task, {}).setdefault(label, {})[metric] = value
    tables = []
    for task, classes in tasks.items():
        metrics = list(dict.fromkeys(metric for values in classes.values() for metric in values))
        rows = [
            [name, *(f"{values.get(metric, math.nan):.4f}" for metric in metrics)] for name, values in classes.items()
        ]
        tables.append(render(f"{task} by class, {result.split}", ["class", *metrics], rows))
    return tables


def _pictures(folder: Path, data: VisionData, model: FineTuner, result: Evaluation, board: SummaryWriter) -> list[str]:
    """PNG files in `folder`, and the same in TensorBoard; returns the names."""
    names = []
    for task, head in model.heads.items():
        for name, figure in head.figures(result.computed[task]).items():
            file = f"{result.split}_{task}_{name}.png"
            figure.savefig(folder / file, dpi=110)
            board.add_figure(f"{result.split}/{task}/{name}", figure)
            names.append(file)
        if result.worst.get(task):
            worst = worst_mistakes(data, head, task, result)
            file = f"{result.split}_{task}_worst.png"
            write_png(worst, str(folder / file))
            board.add_image(f"{result.split}/{task}/worst", worst)
            names.append(file)
    return names


def worst_mistakes(data: VisionData, head: Any, task: str, result: Evaluation) -> Tensor:
    """The samples with the largest loss, worst first, truth and prediction drawn on them."""
    dataset = data.dataset(result.split, augmented=False)
    position = {sample.path: i for i, sample in enumerate(dataset.samples)}
    return grid(
        [head.draw(dataset.picture(position[case.path]), case.prediction, case.truth) for case in result.worst[task]]
    )


def _hparams(cfg: DictConfig, board: SummaryWriter, monitor: str, value: float) -> None:
    """The run as one row of TensorBoard's HPARAMS page, with the best checkpoint's monitored metric as objective."""
    flat: dict[str, Any] = {}
    for key in HPARAMS:
        chosen = OmegaConf.select(cfg, key)
        _flatten(key, OmegaConf.to_container(chosen) if OmegaConf.is_config(chosen) else chosen, flat)
    objective = f"best/{monitor}"
    experiment, start, end = hparams(flat, {objective: value})
    for summary in (experiment, start, end):
        board._get_file_writer().add_summary(summary)
    board.add_scalar(objective, value)


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "_target_":
                into[prefix] = str(inner).rpartition(".")[2]
            elif key != "_partial_":
                _flatten(f"{prefix}.{key}", inner, into)
    elif isinstance(value, bool | int | float | str):
        into[prefix] = value
    elif value is not None:
        into[prefix] = str(value)
