"""Distillation: a student learns from the outputs of a trained teacher."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.models.features import Features
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.base import Raw
from visiontune.models.heads.decoders import upsample
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.interfaces import require
from visiontune.models.loss_terms import LossTerm, TrainingStep
from visiontune.runs.directory import RunDirectory

MAX_RATIO = 2**0.5  # two maps count as equally fine if their heights differ by at most this factor


class Teacher:
    """A trained run that computes its outputs for the images that a student trains on.

    It is not a module, so the student's parameters, checkpoints, optimizer and DDP do not include it.

    Args:
        size: (H, W) of the teacher's input; images are resized to it.
    """

    def __init__(self, run: RunDirectory, model: FineTuner, size: tuple[int, int]) -> None:
        self.run, self.model, self.size = run, model.eval().requires_grad_(False), size

    def __deepcopy__(self, memo: Any) -> "Teacher":
        return self  # the average of the student's weights shares the teacher

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Features, dict[str, Raw]]:
        """Features and raw outputs by task for images ``(B, C, H, W)`` in 0..1."""
        if self.model.device != image.device:
            self.model.to(image.device)
        if image.shape[-2:] != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=True)
        features = self.model.backbone(image)
        return features, {task: head(features) for task, head in self.model.heads.items()}


class Projection(nn.Conv2d):
    """Maps a feature map of the student to the teacher's number of channels.

    Its weights are in no state dict, since the trained student works without them.
    """

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__(channels, teacher_channels, kernel_size=1)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        pass

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


class Distillation(LossTerm):
    """Blends the distance to the teacher's outputs into each task's loss, and adds the distance to its features.

    Args:
        student: the model that trains.
        image: an image ``(1, C, H, W)``, to compare the shapes of student and teacher.
        weight: share of the teacher in each task's loss, 0..1 (Hinton, Vinyals & Dean 2015,
            https://arxiv.org/abs/1503.02531).
        temperature: above 0, see `Distillable.distill`.
        features: factor of the loss between features, 0 or more (FitNets, Romero et al. 2015,
            https://arxiv.org/abs/1412.6550). It compares all pairs of maps with about the same resolution, or the two
            coarsest maps if there is no such pair. It compares the embeddings if the student's heads use theirs.

    Raises:
        UserError: two heads cannot be compared.
    """

    label = "teacher"
    needs_images = True

    def __init__(
        self, teacher: Teacher, student: FineTuner, image: Tensor, weight: float, temperature: float, features: float
    ) -> None:
        super().__init__()
        self.teacher, self.weight, self.temperature, self.features = teacher, weight, temperature, features
        modes = [(module, module.training) for module in student.modules()]
        student.eval()
        with torch.no_grad():
            student_features = student.backbone(image)
            outputs = {task: head(student_features) for task, head in student.heads.items()}
            teacher_features, teacher_outputs = teacher(image)
            for task, head in require(student.heads, Distillable, "distill.teacher").items():
                head.distill(outputs[task], cast(Any, teacher.model.heads[task]), teacher_outputs[task], temperature)
        for module, training in modes:
            module.training = training
        self.pairs = pair_maps(student_features.maps, teacher_features.maps) if features else []
        self.use_embedding = bool(features) and "embedding" in vars(student_features)
        self.projections = nn.ModuleList(
            Projection(student_map.shape[1], teacher_map.shape[1])
            for student_map, teacher_map in self._matched_maps(student_features, teacher_features)
        )

    def forward(self, model: Any, step: TrainingStep) -> Tensor:
        """Replace `step.losses` by the blended losses; return the loss between features."""
        image = step.batch["image"]
        teacher_features, teacher_outputs = self.teacher(image)
        for task, head in require(model.heads, Distillable, "distill.teacher").items():
            teacher_head = cast(Any, self.teacher.model.heads[task])
            distance = head.distill(step.outputs[task], teacher_head, teacher_outputs[task], self.temperature)
            step.curves[f"train/{task}/distill"] = distance, len(image)
            step.losses[task] = (1 - self.weight) * step.losses[task] + self.weight * distance
            step.labelled.add(task)  # by the teacher
        if not self.projections:
            return image.new_zeros(())
        distance = self._feature_distance(step.features, teacher_features)
        step.curves["train/distill_features"] = distance, len(image)
        return self.features * distance

    def _feature_distance(self, student: Features, teacher: Features) -> Tensor:
        """The share of the variance of the teacher's maps that the student does not explain, a mean over the pairs."""
        distances = []
        for projection, maps in zip(self.projections, self._matched_maps(student, teacher), strict=True):
            student_map, teacher_map = projection(maps[0]).float(), maps[1].float()
            error = (upsample(student_map, teacher_map.shape[-2:]) - teacher_map).square().mean()
            distances.append(error / teacher_map.var().clamp_min(1e-12))
        return torch.stack(distances).mean()

    def _matched_maps(self, student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
        """Pairs of maps ``(B, C, h, w)``; an embedding is a map of one cell."""
        maps = [(student.maps[i], teacher.maps[j]) for i, j in self.pairs]
        if self.use_embedding:
            maps.append((student.embedding[..., None, None], teacher.embedding[..., None, None]))
        return maps

    def __str__(self) -> str:
        height, width = self.teacher.size
        name = self.teacher.model.backbone.name
        text = f"{self.teacher.run.path} ({name}, {height} x {width}), weight {self.weight:g}"
        count = sum(p.numel() for p in self.parameters())
        features = f", features {self.features:g} with {count:,} parameters for training only" if count else ""
        return f"{text}, temperature {self.temperature:g}{features}"


def pair_maps(student: list[Tensor], teacher: list[Tensor]) -> list[tuple[int, int]]:
    """Indices of the maps to compare: the student's deepest map of each resolution, and the teacher's nearest map."""
    if not student or not teacher:
        return []
    indices, teacher_indices = ({maps[i].shape[-2]: i for i in range(len(maps))} for maps in (student, teacher))
    pairs = []
    for height, index in indices.items():
        nearest = min(teacher_indices, key=lambda other: _ratio(height, other))
        if _ratio(height, nearest) <= MAX_RATIO:
            pairs.append((index, teacher_indices[nearest]))
    return pairs or [(len(student) - 1, len(teacher) - 1)]


def _ratio(height: int, other: int) -> float:
    return max(height / other, other / height)
