"""Write and log the results of a run: metrics, predictions, images, the report page."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from visiontune.analysis.page import write_page
from visiontune.analysis.tables import render
from visiontune.data import VisionData
from visiontune.loggers.hyperparameters import flatten
from visiontune.loggers.log import log_artifacts, log_final_image, log_results
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.drawing import image_grid, save_figure, save_image, shrink
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import write_json
from visiontune.runs.log import log, warn_on_failure
from visiontune.runs.predictions import Row, read_predictions, write_predictions
from visiontune.training.evaluation import Evaluation
from visiontune.training.load import read_checkpoint


def report(
    cfg: DictConfig,
    run: RunDirectory,
    data: VisionData,
    model: FineTuner,
    results: list[Evaluation],
    loggers: Sequence[Logger],
) -> None:
    """Write and log the results of the best checkpoint.

    After metrics.json and predictions.csv are written, an error is a warning: a finished training stays finished.

    Args:
        results: one `Evaluation` for each split.
    """
    finite = write_results(run, results, run.path)
    step = 0
    with warn_on_failure("the loggers have no results"):
        step = read_checkpoint(run.checkpoint("best")).get("global_step", 0)
        log_results(loggers, flatten(cfg), finite, model.monitor[0], step)
    images = write_report(cfg, run, data, model, results, run.report)
    with warn_on_failure("the loggers have no images"):
        for name, file in images.items():
            image = pil_to_tensor(Image.open(run.report / file).convert("RGB"))
            log_final_image(loggers, name, image, step)
    with warn_on_failure("the loggers have no files"):
        log_artifacts(loggers, run)
    with warn_on_failure("the table of results is missing"):
        log.info("\n" + results_table(results))
    log.info(f"\nbest checkpoint  {run.checkpoints / 'best.ckpt'}")
    log.info(f"report           {run.report / 'index.html'}")
    if run.tensorboard.is_dir():
        log.info(f"tensorboard      tensorboard --logdir {run.path}")


def write_results(run: RunDirectory, results: list[Evaluation], folder: Path) -> dict[str, float]:
    """Write `metrics.json` and `predictions.csv` to `folder`; return the content of `metrics.json`.

    JSON has no NaN: a metric without a value, such as that of a class without samples, is left out.
    """
    metrics = {name: value for result in results for name, value in result.metrics.items()}
    if folder == run.path:
        metrics |= _skipped_steps(run)
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    write_json(folder / run.metrics.name, finite)
    write_predictions(folder / run.predictions.name, (row for result in results for row in result.rows))
    return finite


def add_results(run: RunDirectory, result: Evaluation) -> None:
    """Write the metrics and predictions of one split beside those of the run's other splits."""
    others = [Row.parse(row) for row in read_predictions(run.predictions) if row["split"] != result.split]
    write_predictions(run.predictions, [*others, *result.rows])
    metrics = {name: value for name, value in run.read_metrics().items() if not name.startswith(f"{result.split}/")}
    finite = {name: value for name, value in result.metrics.items() if math.isfinite(value)}
    write_json(run.metrics, metrics | finite)  # last: it says that the split has been evaluated


def _skipped_steps(run: RunDirectory) -> dict[str, float]:
    """`train/skipped_steps` of a run with `on_nonfinite=skip`."""
    if not run.history.is_file():
        return {}
    with run.history.open(newline="", errors="replace") as file:  # another program may have damaged it
        counts = [row["train/skipped_steps"] for row in csv.DictReader(file) if row.get("train/skipped_steps")]
    return {"train/skipped_steps": float(counts[-1])} if counts else {}


def write_report(
    cfg: DictConfig, run: RunDirectory, data: VisionData, model: FineTuner, results: list[Evaluation], folder: Path
) -> dict[str, str]:
    """Write the figures of the last split, its worst samples and the page to `folder`; an error is a warning.

    Returns:
        By the name that loggers show, `SPLIT/TASK/NAME`, the file name of each image.
    """
    images: dict[str, str] = {}
    with warn_on_failure("the report is not complete"):
        folder.mkdir(parents=True, exist_ok=True)
        images = write_images(folder, data, model, results[-1])
        metrics = run.read_metrics() if folder == run.report else {}  # also of splits that were evaluated before
        metrics |= {name: value for result in results for name, value in result.metrics.items()} | _skipped_steps(run)
        source, split = cfg.get("compressed_from"), results[-1].split
        write_page(folder, run, split, metrics, list(images.values()), source, per_class_names(results))
    return images


def results_table(results: list[Evaluation]) -> str:
    """A row per metric and a column per split; then, for each task, a table of the classes of the last split."""
    names = list(dict.fromkeys(name.partition("/")[2] for result in results for name in result.metrics))
    classes = per_class_names(results)
    rows = []
    for name in names:
        if name not in classes:
            values = [result.metrics.get(f"{result.split}/{name}", math.nan) for result in results]
            rows.append([name, *(f"{value:.4f}" for value in values)])
    table = render("best checkpoint", ["metric", *(result.split for result in results)], rows)
    return "\n\n".join([table, *_class_tables(results[-1])])


def per_class_names(results: list[Evaluation]) -> set[str]:
    """The names `TASK/METRIC/CLASS` of all metrics with a value per class."""
    return {
        f"{task}/{values.metric}/{name}"
        for result in results
        for task, metrics in result.per_class.items()
        for values in metrics
        for name in values.classes
    }


def _class_tables(result: Evaluation) -> list[str]:
    """A table for each task that has metrics with a value per class."""
    tables = []
    for task, metrics in result.per_class.items():
        if metrics:
            scores = [values.as_dict() for values in metrics]
            rows = [[name, *(f"{float(values[name]):.4f}" for values in scores)] for name in metrics[0].classes]
            columns = ["class", *(values.metric for values in metrics)]
            tables.append(render(f"{task} by class, {result.split}", columns, rows))
    return tables


def write_images(folder: Path, data: VisionData, model: FineTuner, result: Evaluation) -> dict[str, str]:
    """Write each task's figures and worst samples as PNG files to `folder`; an error in one is a warning.

    Returns:
        By the name that loggers show, `SPLIT/TASK/NAME`, the file name of each image.
    """
    files = {}
    for task, head in model.heads.items():
        if not isinstance(head, Describable):
            continue
        with warn_on_failure(f"the figures of {task} are missing"):
            for name, figure in head.figures(result.computed[task]).items():
                file = re.sub(r"[^\w.-]", "_", f"{result.split}_{task}_{name}.png")
                save_figure(figure, folder / file)
                files[f"{result.split}/{task}/{name}"] = file
        if result.worst.get(task):
            with warn_on_failure(f"the worst samples of {task} are not drawn"):
                file = f"{result.split}_{task}_worst.png"
                save_image(draw_worst(data, head, task, result), folder / file)
                files[f"{result.split}/{task}/worst"] = file
    return files


def draw_worst(data: VisionData, head: Describable, task: str, result: Evaluation) -> Tensor:
    """A grid of the samples with the largest loss, the worst first, with target and prediction drawn."""
    dataset = data.dataset(result.split, augmented=False)
    position = {sample.path: i for i, sample in enumerate(dataset.samples)}
    drawings = []
    for sample in result.worst[task]:
        drawing = head.draw(dataset.original_image(position[sample.path]), sample.prediction, sample.truth)
        drawings.append(shrink(drawing))  # 16 photos of a camera would take a gigabyte
    return image_grid(drawings)
