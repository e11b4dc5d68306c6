"""Mixup and cutmix of a whole batch, on its device, for all tasks together."""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from visiontune.data.batch import Batch
from visiontune.data.schema import TaskInfo
from visiontune.data.seeding import derive
from visiontune.data.target_kinds import MixableKind
from visiontune.errors import UserError


class BatchMixer:
    """Mixes images, and turns classification and multilabel targets into soft ones: one float `(classes,)` per sample.

    Soft classification targets sum to 1. A label that is unknown (NaN) in one of two mixed images is unknown in the
    result.

    Args:
        mixup: alpha of mixup (Zhang et al. 2018), 0 disables it.
        cutmix: alpha of cutmix (Yun et al. 2019), 0 disables it; with both, each batch uses one of them at random.

    Raises:
        UserError: a task's targets cannot be mixed.
    """

    def __init__(self, schema: dict[str, TaskInfo], mixup: float, cutmix: float, seed: int) -> None:
        self.kinds: dict[str, MixableKind] = {}
        for task, info in schema.items():
            kind = info.target_kind
            if not isinstance(kind, MixableKind):
                raise UserError(
                    f"augment.mixup and augment.cutmix cannot mix the targets of {task} ({info.kind}); "
                    "write e.g. augment=standard"
                )
            self.kinds[task] = kind
        self.schema, self.seed = schema, seed
        self.choices = [(v2.MixUp, mixup)] * (mixup > 0) + [(v2.CutMix, cutmix)] * (cutmix > 0)

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Mix a batch of float images; the draw depends on the seed, the epoch and the batch's samples."""
        count = len(batch["image"])
        if count < 2:  # nothing to mix with
            share = torch.eye(count)
            image = batch["image"]
        else:
            before = torch.get_rng_state()
            torch.default_generator.manual_seed(derive(self.seed, "mix", epoch, *batch["index"].tolist()))
            transform, alpha = self.choices[int(torch.randint(len(self.choices), ()))]
            order = _together(batch["targets"])
            image = batch["image"] if order is None else batch["image"][order]
            # The mixed indices of the samples are the share of each sample in each image, for the labels of any task.
            image, share = transform(alpha=alpha, num_classes=count)(image, torch.arange(count))
            if order is not None:
                back = order.argsort()
                image, share = image[back], share[back][:, back]
            torch.set_rng_state(before)
        targets = {task: self._soft(task, values, share) for task, values in batch["targets"].items()}
        return {**batch, "image": image, "targets": targets}

    def _soft(self, task: str, values: list[Any], share: Tensor) -> list[Tensor | None]:
        """Mixed targets of a task; None for an image that is mixed with an unlabelled one."""
        classes, kind = len(self.schema[task].classes), self.kinds[task]
        unknown_vector = torch.full((classes,), torch.nan)
        labels = torch.stack(
            [unknown_vector if value is None else kind.soft_vector(value, classes) for value in values]
        )
        unknown = (share > 0).float() @ labels.isnan().float() > 0
        vectors = (share.float() @ labels.nan_to_num(0.0)).masked_fill(unknown, torch.nan)
        without = torch.tensor([value is None for value in values])
        unlabelled_mixes = ((share > 0) & without).any(1)
        return [
            None if unlabelled else vector
            for vector, unlabelled in zip(vectors, unlabelled_mixes.tolist(), strict=True)
        ]


def _together(targets: dict[str, list[Any]]) -> Tensor | None:
    """An order that groups samples labelled for the same tasks; None if all samples are labelled for the same tasks.

    Each sample is mixed with the previous one, and loses its label if the previous one has none.
    """
    unlabelled = list(zip(*([value is None for value in values] for values in targets.values()), strict=True))
    if len(set(unlabelled)) == 1:
        return None
    return torch.tensor([i for i, _ in sorted(enumerate(unlabelled), key=itemgetter(1))])
