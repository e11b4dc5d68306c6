"""Which stages are frozen in an epoch, and which outputs replace them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from visiontune.data import VisionData
from visiontune.models.backbones.backbone import Stage
from visiontune.models.finetuner import FineTuner
from visiontune.models.replay import ReplayPlan, plan_replay
from visiontune.strategies import Strategy


def count_frozen_stages(strategy: Strategy, epoch: int) -> int:
    """How many stages are frozen, counted from the input."""
    trainable = strategy.trainable(epoch)
    return next(i for i, name in enumerate(strategy.stages) if name in trainable)


def plan_stages(model: FineTuner, data: VisionData, count: int) -> ReplayPlan | None:
    """How to skip the first `count` stages of the backbone; None if it is not possible."""
    image = torch.rand(2, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))
    image = image.to(model.device, memory_format=torch.channels_last)
    trained = [parameter for _, stage in model.backbone.stages()[count:] for parameter in stage.parameters()]
    with evaluation_mode(model):
        return plan_replay(model.forward, model.backbone.model, stage_paths(model, count), image, trained=trained)


def stage_paths(model: FineTuner, count: int) -> list[str]:
    """Paths of the modules of the first `count` stages."""
    stages = cast(list[tuple[str, Stage]], model.backbone.stages()[:count])
    modules = dict(model.backbone.model.named_modules())
    return [path for _, stage in stages for path in stage.paths if path in modules]  # the others are parameters


@contextmanager
def evaluation_mode(model: FineTuner) -> Iterator[None]:
    """Set all modules to evaluation mode within the block, and back to their previous mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
