"""From `distill` in the config to the teacher of a run."""

import csv

import torch
from omegaconf import DictConfig

from visiontune.data import VisionData
from visiontune.data.loaders import as_size
from visiontune.errors import UserError, some
from visiontune.models.distillation import Distillation, Teacher
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.training.load import load_model, open_run


def attach(cfg: DictConfig, data: VisionData, model: FineTuner) -> None:
    """Give `model` its teacher, where the config names one.

    Raises:
        UserError: there is no such run, its tasks, classes or channels are others, or it has other weights than when
            this run began.
    """
    settings = cfg.get("distill")
    if settings is None or settings.teacher is None:
        return
    run, taught = open_run(settings.teacher, cfg.trust)
    digest = run.digest()
    if settings.sha256 not in (None, digest):
        raise UserError(
            f"distill.teacher={settings.teacher}: its best checkpoint is not the one that this run began with; put "
            "that one back, or begin a new run"
        )
    # A run is read from other places as well, and goes on with the same teacher alone.
    settings.teacher, settings.sha256 = str(run.path), digest
    network, schema = load_model(run, taught, plain=True)
    for task, head in model.heads.items():
        info = data.schema[task]
        if task not in schema:
            raise UserError(
                f"distill.teacher={run.path} answers {', '.join(schema)}, and this run {task}: name a teacher of that, "
                "or leave it out of heads"
            )
        if schema[task] != info:
            raise UserError(
                f"distill.teacher={run.path} was trained for {some(schema[task].classes)} ({task}), and this data has "
                f"{some(info.classes)}: they have to be the same in the same order"
            )
        if type(network.heads[task]) is not type(head):
            raise UserError(
                f"distill.teacher={run.path} answers {task} with a {type(network.heads[task]).__name__}, and this run "
                f"with a {type(head).__name__}: write the same heads"
            )
    if taught.data.channels != data.channels:
        raise UserError(
            f"distill.teacher={run.path} sees {taught.data.channels} channels: write data.channels="
            f"{taught.data.channels}, or name another teacher"
        )
    image = torch.rand(1, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))
    teacher = Teacher(run, network, as_size(taught.data.image_size))
    model.loss_terms.append(
        Distillation(teacher, model, image, settings.weight, settings.temperature, settings.features)
    )
    data.notes += [note for note in (enlarged(teacher.size, data.image_size), seen_before(run, data)) if note]


def enlarged(size: tuple[int, int], shown: tuple[int, int]) -> str | None:
    """In words, that the teacher is shown images which have less in them than those that it knows."""
    if size[0] * size[1] <= shown[0] * shown[1]:
        return None
    return (
        f"the teacher knows images of {size[0]} x {size[1]} and sees this run's, {shown[0]} x {shown[1]}, "
        f"enlarged, where it errs more: better is a teacher trained with data.image_size={list(shown)}"
    )


def seen_before(run: RunDirectory, data: VisionData) -> str | None:
    """In words, how many images that judge the student the teacher was trained on; None for none."""
    with run.splits.open(newline="") as file:
        trained = {row["content"] for row in csv.DictReader(file) if row["split"] == "train"}
    counts = {split: sum(s.content in trained for s in data.samples(split)) for split in ("val", "test")}
    if not any(counts.values()):
        return None
    said = " and ".join(f"{count} of {len(data.samples(split))} {split}" for split, count in counts.items() if count)
    return f"the teacher was trained on {said} images: what the student scores on them says too much"
