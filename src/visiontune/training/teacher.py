"""Attach the teacher that `distill` in the config names."""

import torch
from omegaconf import DictConfig

from visiontune.data import VisionData
from visiontune.data.loaders import as_size
from visiontune.data.recorded import read_rows
from visiontune.errors import UserError, some
from visiontune.models.distillation import Distillation, Teacher
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory
from visiontune.training.load import load_model, open_run


def attach_teacher(cfg: DictConfig, data: VisionData, model: FineTuner) -> None:
    """Add a `Distillation` to the loss terms of `model` if the config names a teacher.

    Raises:
        UserError: its tasks, classes, heads or channels differ from those of this run.
    """
    settings = cfg.distill
    if settings.teacher is None:
        return
    run, teacher_cfg = open_run(settings.teacher, cfg.trust)
    network, schema = load_model(run, teacher_cfg, plain=True)
    for task, head in model.heads.items():
        info = data.schema[task]
        if task not in schema:
            raise UserError(
                f"distill.teacher={run.path} has the tasks {', '.join(schema)}, and this run has {task}: write a "
                f"teacher with this task, or leave it out of heads"
            )
        if schema[task] != info:
            raise UserError(
                f"distill.teacher={run.path} was trained for {some(schema[task].classes)} ({task}), and this data has "
                f"{some(info.classes)}: write a teacher with the same classes in the same order"
            )
        if type(network.heads[task]) is not type(head):
            raise UserError(
                f"distill.teacher={run.path} has a {type(network.heads[task]).__name__} for {task}, and this "
                f"run a {type(head).__name__}: write the same heads"
            )
    if teacher_cfg.data.channels != data.channels:
        raise UserError(
            f"distill.teacher={run.path} expects {teacher_cfg.data.channels} channels: write data.channels="
            f"{teacher_cfg.data.channels}, or name another teacher"
        )
    image = torch.rand(1, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))
    teacher = Teacher(run, network, as_size(teacher_cfg.data.image_size))
    model.loss_terms.append(
        Distillation(teacher, model, image, settings.weight, settings.temperature, settings.features)
    )
    data.notes += [
        note for note in (note_enlarged_images(teacher.size, data.image_size), note_known_images(run, data)) if note
    ]


def note_enlarged_images(teacher_size: tuple[int, int], size: tuple[int, int]) -> str | None:
    """A note if the teacher was trained on larger images than this run has."""
    if teacher_size[0] * teacher_size[1] <= size[0] * size[1]:
        return None
    return (
        f"the teacher was trained on images of {teacher_size[0]} x {teacher_size[1]} and gets enlarged ones of "
        f"{size[0]} x {size[1]}, which makes it less accurate: better train one with data.image_size={list(size)}"
    )


def note_known_images(run: RunDirectory, data: VisionData) -> str | None:
    """A note if the teacher was trained on images on which the student is evaluated."""
    trained = {row["content"] for row in read_rows(run.splits) if row["split"] == "train"}
    counts = {split: sum(s.content in trained for s in data.samples(split)) for split in ("val", "test")}
    if not any(counts.values()):
        return None
    images = " and ".join(f"{count} of {len(data.samples(split))} {split}" for split, count in counts.items() if count)
    return f"the teacher was trained on {images} images: the student's scores on them are too optimistic"
