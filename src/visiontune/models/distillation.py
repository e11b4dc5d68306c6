"""What a teacher gives, and how it counts in the losses of a training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.errors import UserError
from visiontune.models.features import Features
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.base import Head, Raw
from visiontune.models.heads.decoders import upsampled
from visiontune.runs.directory import RunDirectory

NEAR = 2**0.5  # resolutions of two maps that are one, at most


class Teacher:
    """A trained run that gives what it makes of the images that a student trains on.

    No module: nothing of it is in the student's parameters, checkpoints and optimizer, and no DDP wraps it.
    """

    def __init__(self, run: RunDirectory, model: FineTuner, size: tuple[int, int]) -> None:
        """
        Args:
            size: (H, W) of its own input, to which images are brought.
        """
        self.run, self.model, self.size = run, model.eval().requires_grad_(False), size

    def __deepcopy__(self, memo: Any) -> "Teacher":
        return self  # the average of the student's weights needs none of its own

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
    """From a map of the student to the teacher's channels. What the student is works without: no state dict has it."""

    def __init__(self, channels: int, taught: int) -> None:
        super().__init__(channels, taught, 1)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        pass

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


class Distillation(nn.Module):
    """Lets what the teacher gives count in the losses of a training.

    Args:
        weight: share of it in each task's loss (Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531).
        temperature: see `Head.distill`.
        features: weight of the loss between features (FitNets, Romero et al. 2015, https://arxiv.org/abs/1412.6550).
            They are all pairs of maps with about the same resolution, else the coarsest two, and the embeddings where
            the student's heads read theirs.
        image: an image ``(1, C, H, W)``, to find out what the two give.

    Raises:
        UserError: an argument out of range, or two heads that cannot be compared.
    """

    def __init__(
        self, teacher: Teacher, student: FineTuner, image: Tensor, weight: float, temperature: float, features: float
    ) -> None:
        super().__init__()
        for name, value, fine, write in (
            ("weight", weight, _number(weight) and 0 <= weight <= 1, "a share from 0 to 1, such as distill.weight=0.5"),
            ("temperature", temperature, _number(temperature) and temperature > 0, "a number above 0, such as 4"),
            ("features", features, _number(features) and features >= 0, "0 for none, or a factor such as 1"),
        ):
            if not fine:
                raise UserError(f"distill.{name}={value}: write {write}")
        self.teacher, self.weight, self.temperature, self.features = teacher, weight, temperature, features
        modes = [(module, module.training) for module in student.modules()]
        student.eval()
        with torch.no_grad():
            own = student.backbone(image)
            raw = {task: head(own) for task, head in student.heads.items()}
            given, taught = teacher(image)
            for task, head in student.heads.items():
                head.distill(raw[task], teacher.model.heads[task], taught[task], temperature)
        for module, mode in modes:
            module.training = mode
        self.pairs = pairs(own.maps, given.maps) if features else []
        self.embedding = bool(features) and "embedding" in vars(own)
        matched = list(zip(*self._matched(own, given), strict=True))
        self.projections = nn.ModuleList(Projection(mine.shape[1], its.shape[1]) for mine, its in matched)

    def forward(
        self, image: Tensor, own: Features, raw: dict[str, Raw], heads: Mapping[str, Head], losses: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Losses by task with the teacher's share in them, the loss between features, and what curves there are.

        Args:
            image: ``(B, C, H, W)``, what the student has seen.
            own: what it made of that.
            losses: of the labels.
        """
        given, taught = self.teacher(image)
        apart = {
            task: head.distill(raw[task], self.teacher.model.heads[task], taught[task], self.temperature)
            for task, head in heads.items()
        }
        curves = {f"train/{task}/distill": value for task, value in apart.items()}
        blended = {task: (1 - self.weight) * losses[task] + self.weight * apart[task] for task in losses}
        hint = image.new_zeros(())
        if self.projections:
            hint = curves["train/distill_features"] = self._features_apart(own, given)
        return blended, self.features * hint, curves

    def _features_apart(self, own: Features, given: Features) -> Tensor:
        """The share of the teacher's variance that is not explained, a mean over the pairs."""
        found = []
        for projection, mine, its in zip(self.projections, *self._matched(own, given), strict=True):
            its = its.float()
            error = (upsampled(projection(mine).float(), its.shape[-2:]) - its).square().mean()
            found.append(error / its.var().clamp_min(1e-12))
        return torch.stack(found).mean()

    def _matched(self, own: Features, given: Features) -> tuple[list[Tensor], list[Tensor]]:
        """Maps ``(B, C, h, w)`` of the student and of the teacher; an embedding is a map of one cell."""
        mine, its = [own.maps[i] for i, _ in self.pairs], [given.maps[j] for _, j in self.pairs]
        if self.embedding:
            mine, its = [*mine, own.embedding[..., None, None]], [*its, given.embedding[..., None, None]]
        return mine, its

    def __str__(self) -> str:
        high, wide = self.teacher.size
        text = f"{self.teacher.run.path} ({self.teacher.model.backbone.name}, {high} x {wide}), weight {self.weight:g}"
        count = sum(p.numel() for p in self.parameters())
        hints = f", features {self.features:g} through {count:,} parameters that train alone" if count else ""
        return f"{text}, temperature {self.temperature:g}{hints}"


def pairs(own: list[Tensor], given: list[Tensor]) -> list[tuple[int, int]]:
    """Which maps of two networks are compared: the deepest of each resolution with the other's nearest."""
    if not own or not given:
        return []
    mine, its = ({maps[i].shape[-2]: i for i in range(len(maps))} for maps in (own, given))
    nearest = {high: min(its, key=lambda other: max(high / other, other / high)) for high in mine}
    found = [(mine[high], its[other]) for high, other in nearest.items() if max(high / other, other / high) <= NEAR]
    return found or [(len(own) - 1, len(given) - 1)]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
