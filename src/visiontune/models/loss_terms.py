"""Terms of the training loss in addition to the losses of the heads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from visiontune.data.batch import Batch
from visiontune.models.features import Features
from visiontune.models.heads import Head
from visiontune.models.heads.base import Raw


@dataclass
class TrainingStep:
    """The data of one training step that a loss term may read or change.

    Attributes:
        batch: the batch of the data module.
        features: the output of the backbone.
        outputs: raw outputs by task.
        losses: the scalar loss of each task. A term may replace them before they are weighted and summed.
        labelled: the tasks whose loss counts in this batch. A term that needs no labels may add tasks.
        curves: scalars to log as epoch means: full name, such as `train/TASK/distill` -> (mean, number of samples).
    """

    batch: Batch
    features: Features
    outputs: dict[str, Raw]
    losses: dict[str, Tensor] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)
    curves: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def compute_losses(self, heads: Mapping[str, Head], log_all: bool) -> None:
        """Fill in `losses` and `labelled`, and `curves` with the parts of the losses.

        Args:
            log_all: log a task's loss also if it is the only part of the total.
        """
        for task, raw in self.outputs.items():
            targets = self.batch["targets"][task]
            parts = heads[task].loss(raw, targets)
            self.losses[task] = torch.stack(list(parts.values())).sum()
            if labelled := sum(target is not None for target in targets):
                self.labelled.add(task)
                if log_all or len(parts) > 1:
                    self.curves |= {f"train/{task}/{name}": (value, labelled) for name, value in parts.items()}


class LossTerm(nn.Module, ABC):
    """An extra term of the training loss: `model.loss_terms.append(term)` adds it to a FineTuner.

    Its parameters, if any, train with the heads. No state dict may contain them, since a trained model is loaded
    without its loss terms: see `distillation.Projection`.

    Attributes:
        label: its name in the plan; its text there is `str(term)`.
        needs_images: whether it reads `step.batch["image"]`; outputs of frozen stages then cannot replace images.
    """

    label: str
    needs_images = False

    @abstractmethod
    def forward(self, model: Any, step: TrainingStep) -> Tensor:
        """The scalar to add to the weighted sum of the tasks' losses; it may change `step.losses` as well."""


class L1(LossTerm):
    """The sum of the absolute values of all weights that train, without norms and biases (one dimension).

    Args:
        factor: multiplies the sum.
    """

    label = "L1"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, model: Any, step: TrainingStep) -> Tensor:
        weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        return self.factor * sum((weight.abs().sum() for weight in weights), start=torch.zeros(()))

    def __str__(self) -> str:
        return f"{self.factor:g} times the sum of the absolute values of the weights that train"
