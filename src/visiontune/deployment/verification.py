"""Compare an exported file with its model on real images."""

from collections.abc import Iterator, Sequence

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

RAW, DECODED = 1e-4, 1e-4  # largest relative difference of numbers
SHARE = 1e-3  # largest share of decisions that differ
PIXELS, BOXES = 0.1, 0.01  # largest offset of a box, and largest share of boxes without a match
NO_MATCH = 1e3
TIE, TIES = 1e-6, 0.1  # largest difference of scores that are equal, and share of boxes with equal scores that is named


@torch.no_grad()
def verify(exported: Exported, model: FineTuner, batches: Iterator[Batch]) -> tuple[int, float]:
    """Compare a file with the model it was exported from.

    The raw outputs must agree within `RAW` of the largest value (at least 1). Decisions (the class of a pixel, boxes)
    may flip on near ties. So the file's decoding is compared with the model's decoding of the file's raw outputs:
    numbers within `DECODED`, all but a share `SHARE` of the decisions, and all but a share `BOXES` of the boxes in any
    order (non-maximum suppression may keep either of two boxes).

    Args:
        batches: batches that hold the original images.

    Returns:
        The number of images, and the largest difference of raw outputs.

    Raises:
        RunError: they disagree; the message says which output and by how much.
    """
    count, worst = 0, 0.0
    boxes: dict[str, list[tuple[int, int]]] = {}
    scores: dict[str, list[Tensor]] = {}
    for batch in batches:
        file_outputs = exported.outputs(batch["original_image"], model.heads)
        for task, raw in model(batch["image"]).items():
            head = model.heads[task]
            exportable = require({task: head}, Exportable, "export")[task]
            not_compared = (*exportable.discrete_outputs, *exportable.training_only)
            file_raw, predictions = file_outputs[task]
            for name, value in raw.items():
                if isinstance(value, Tensor) and name not in not_compared:
                    difference = _difference(file_raw[name], value)
                    _check(f"{task}.{name}", difference, RAW)
                    worst = max(worst, difference)
            for expected, actual in zip(head.decode(file_raw, batch["frame"]), predictions, strict=True):
                if "boxes" in expected:
                    boxes.setdefault(task, []).append(
                        (len(match_boxes(expected, actual)), max(map(len, (expected["boxes"], actual["boxes"]))))
                    )
                    scores.setdefault(task, []).append(expected["scores"])
                    continue
                for name, value in expected.items():
                    limit = DECODED if value.is_floating_point() else SHARE
                    _check(f"{task}.{name}", _difference(actual[name], value), limit)
        count += len(batch["original_image"])
    for task, counts in boxes.items():
        matched, total = map(sum, zip(*counts, strict=True))
        advice = _explain_ties(task, scores[task])
        _check(f"{task}.boxes (share without a match)", 1 - matched / max(1, total), BOXES, advice)
    return count, worst


def _explain_ties(task: str, scores: Sequence[Tensor]) -> str | None:
    """What to do if many boxes of an image have equal scores, since the order of such boxes decides which are kept."""
    ties = sum(int((image.sort().values.diff() <= TIE).sum()) for image in scores)
    total = sum(map(len, scores))
    if ties < TIES * total:
        return None
    return (
        f"{ties} of {total} boxes have the score of another box, as those of a network that was not trained, so which "
        f"boxes are kept is a matter of chance. Train the run first, or raise heads.{task}.score_threshold"
    )


def match_boxes(expected: Prediction, actual: Prediction) -> list[tuple[int, int]]:
    """Pairs of rows that are the same box: equal label, and score, sides and mask equal within the tolerances."""
    if not len(expected["boxes"]) or not len(actual["boxes"]):
        return []
    off = (expected["boxes"][:, None] - actual["boxes"]).abs().amax(2) / PIXELS
    off = off.maximum((expected["scores"][:, None] - actual["scores"]).abs() / DECODED)
    off = off.masked_fill(expected["labels"][:, None] != actual["labels"], NO_MATCH).clamp_max(NO_MATCH)
    pairs = []
    for i, j in zip(*linear_sum_assignment(off), strict=True):
        same = off[i, j] <= 1 and all(
            _difference(actual[name][j], expected[name][i]) <= BOXES
            for name in expected.keys() - {"boxes", "scores", "labels"}
        )
        pairs += [(int(i), int(j))] * same
    return pairs


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference divided by the largest value (at least 1); for integers, the share that differs."""
    if a.shape != b.shape:
        return float("inf")
    if not b.numel():
        return 0.0
    if not b.is_floating_point():
        return float((a != b).float().mean())
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1))


def _check(name: str, difference: float, limit: float, advice: str | None = None) -> None:
    if not difference <= limit:
        raise RunError(
            f"the exported file disagrees with the model: {name} differs by {difference:.2g}, at most {limit:g} is "
            f"allowed. {advice or 'Please report the network and this line'}"
        )
