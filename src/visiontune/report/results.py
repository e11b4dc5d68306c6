"""What a finished run leaves: metrics, predictions, pictures, TensorBoard's HPARAMS, the report page."""

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchvision.io import write_png

from visiontune.data import VisionData
from visiontune.evaluation import Evaluation
from visiontune.finetuner import FineTuner
from visiontune.report.page import write_page
from visiontune.report.pictures import grid
from visiontune.report.tables import render
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.log import log
from visiontune.runs.predictions import write_predictions

WORST = 16
# TensorBoard shows a column each and filters by them: what people vary, not everything that can be set.
HPARAMS = (
    "strategy", "optimizer", "scheduler", "backbone.name", "backbone.weights", "data.batch_size", "data.image_size",
    "data.fold", "data.per_class", "trainer.max_epochs", "augment.mixup", "l1", "seed",
)  # fmt: skip


def report(cfg: DictConfig, run: RunDirectory, data: VisionData, model: FineTuner, results: list[Evaluation]) -> None:
    """Write everything that stands on the evaluations of the best checkpoint, and log what to look at."""
    metrics = {name: value for result in results for name, value in result.metrics.items()}
    write_json(run.metrics, metrics)
    write_predictions(run.predictions, (row for result in results for row in result.rows))
    last = results[-1]
    with SummaryWriter(str(run.tensorboard)) as board:
        pictures = _pictures(run.report, data, model, last, board)
        _hparams(cfg, board, model.monitor[0], metrics[model.monitor[0]])
    write_page(run, last.split, metrics, pictures)
    log.info("\n" + results_table(results))
    log.info(f"\nbest checkpoint  {run.checkpoints / 'best.ckpt'}")
    log.info(f"report           {run.report / 'index.html'}")
    log.info(f"tensorboard      tensorboard --logdir {run.path}")


def results_table(results: list[Evaluation]) -> str:
    """One row a metric, one column a split."""
    names = list(dict.fromkeys(name.partition("/")[2] for result in results for name in result.metrics))
    rows = []
    for name in names:
        values = [result.metrics.get(f"{result.split}/{name}", math.nan) for result in results]
        rows.append([name, *(f"{value:.4f}" for value in values)])
    return render("best checkpoint", ["metric", *(result.split for result in results)], rows)


def _pictures(folder: Path, data: VisionData, model: FineTuner, result: Evaluation, board: SummaryWriter) -> list[str]:
    """PNG files in `folder`, and the same in TensorBoard; returns the names."""
    names = []
    for task, head in model.heads.items():
        for name, figure in head.figures(result.computed[task]).items():
            file = f"{result.split}_{task}_{name}.png"
            figure.savefig(folder / file, dpi=110)
            board.add_figure(f"{result.split}/{task}/{name}", figure)
            names.append(file)
        worst = worst_mistakes(data, head, task, result)
        if worst is not None:
            file = f"{result.split}_{task}_worst.png"
            write_png(worst, str(folder / file))
            board.add_image(f"{result.split}/{task}/worst", worst)
            names.append(file)
    return names


def worst_mistakes(data: VisionData, head: Any, task: str, result: Evaluation, count: int = WORST) -> Tensor | None:
    """The samples with the largest loss, worst first, truth and prediction drawn on them; None without labels."""
    rows = [row for row in result.rows if row.task == task and not math.isnan(row.loss)]
    rows = sorted(rows, key=lambda row: -row.loss)[:count]
    if not rows:
        return None
    dataset = data.dataset(result.split, augmented=False)
    position = {sample.path: i for i, sample in enumerate(dataset.samples)}
    images = (dataset[position[row.path]]["image"] for row in rows)
    return grid(
        [
            head.draw(image, result.predictions[task, row.path], row.target)
            for image, row in zip(images, rows, strict=True)
        ]
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
