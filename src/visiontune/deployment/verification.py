"""Is the file the model? Both are asked about real images."""

from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from visiontune.data.batch import Batch
from visiontune.deployment.files import Exported
from visiontune.errors import RunError
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.base import Prediction
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.interfaces import require

RAW, DECODED, SHARE = 1e-4, 1e-4, 1e-3
PIXELS, BOXES = 0.1, 0.01  # how far a box may be off, and the share of boxes that may have no partner
FAR = 1e3


@torch.no_grad()
def verify(exported: Exported, model: FineTuner, batches: Iterator[Batch]) -> tuple[int, float]:
    """Compare a file with the model that it was made of.

    The raw outputs are compared with the model's, up to `RAW` of their size (at least 1). What is chosen by them (the
    class of a pixel, boxes) may differ where two are nearly alike, so that the file's decoding is compared with the
    model's decoding of the file's own raw outputs: numbers up to `DECODED` of their size, choices in all but `SHARE`,
    boxes without regard to their order in all but `BOXES` (of two that overlap just so much, one may win or the other).

    Args:
        batches: with their `image` as stored.

    Returns:
        How many images were compared, and the largest difference of any raw number.

    Raises:
        RunError: they disagree, with what and by how much.
    """
    count, worst = 0, 0.0
    boxes: dict[str, list[tuple[int, int]]] = {}
    for batch in batches:
        found = exported.outputs(batch["original_image"], model.heads)
        for task, raw in model(batch["image"]).items():
            head = model.heads[task]
            discrete = require({task: head}, Exportable, "export")[task].discrete_outputs
            theirs, predictions = found[task]
            for name, value in raw.items():
                if isinstance(value, Tensor) and name not in discrete:
                    difference = _difference(theirs[name], value)
                    _check(f"{task}.{name}", difference, RAW)
                    worst = max(worst, difference)
            for own, other in zip(head.decode(theirs, batch["frame"]), predictions, strict=True):
                if "boxes" in own:
                    boxes.setdefault(task, []).append(
                        (len(partners(own, other)), max(map(len, (own["boxes"], other["boxes"]))))
                    )
                    continue
                for name, value in own.items():
                    limit = DECODED if value.is_floating_point() else SHARE
                    _check(f"{task}.{name}", _difference(other[name], value), limit)
        count += len(batch["original_image"])
    for task, counts in boxes.items():
        paired, all_of_them = map(sum, zip(*counts, strict=True))
        _check(f"{task}.boxes (the share of them)", 1 - paired / max(1, all_of_them), BOXES)
    return count, worst


def partners(own: Prediction, other: Prediction) -> list[tuple[int, int]]:
    """Rows of two predictions with boxes that are the same box: label, score, sides up to `PIXELS`, and mask."""
    if not len(own["boxes"]) or not len(other["boxes"]):
        return []
    off = (own["boxes"][:, None] - other["boxes"]).abs().amax(2) / PIXELS
    off = off.maximum((own["scores"][:, None] - other["scores"]).abs() / DECODED)
    off = off.masked_fill(own["labels"][:, None] != other["labels"], FAR).clamp_max(FAR)
    found = []
    for i, j in zip(*linear_sum_assignment(off), strict=True):
        same = off[i, j] <= 1 and all(
            _difference(other[name][j], own[name][i]) <= BOXES for name in own.keys() - {"boxes", "scores", "labels"}
        )
        found += [(int(i), int(j))] * same
    return found


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest number (at least 1); of choices the share that differs."""
    if a.shape != b.shape:
        return float("inf")
    if not b.numel():
        return 0.0
    if not b.is_floating_point():
        return float((a != b).float().mean())
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1))


def _check(name: str, difference: float, limit: float) -> None:
    if not difference <= limit:
        raise RunError(
            f"the exported file disagrees with the model: {name} by {difference:.2g}, where {limit:g} is allowed; no "
            "file is left. Please report the network and this line"
        )
