"""The batch that loaders yield, and that the FineTuner, callbacks and exports read.

B is the batch size, (C, H, W) the size of the network's input. The forms of targets are described in
`visiontune.data.targets`.
"""

from typing import Any, NotRequired, TypedDict

from torch import Tensor

from visiontune.data.frames import Frame


class Batch(TypedDict):
    """One batch of samples.

    Attributes:
        image: ``(B, C, H, W)``, uint8 0..255 or float32 0..1 from the loader, float32 0..1 after `to_network`.
        targets: task -> B targets in pixels of `image`; None if a sample has no label for the task. After mixup or
            cutmix they are float ``(classes,)``.
        index: ``(B,)`` int64, the index of each sample in its split.
        path: the path or name of each sample, as in `splits.csv` and `predictions.csv`.
        size: ``(B, 2)`` int64, (H, W) of each original image.
        truth: evaluation only: task -> B targets in pixels of the original image, for metrics.
        frame: evaluation only: where each original image lies in `image`, to map predictions back.
        original_image: on request (`eval_loader(original_images=True)`, `predict`): B images ``(C, H, W)`` uint8
            before any transform.
        frozen: with cached features: outputs of the frozen stages, which replace `image`.
    """

    image: Tensor
    targets: dict[str, list[Any]]
    index: Tensor
    path: list[str]
    size: Tensor
    truth: NotRequired[dict[str, list[Any]]]
    frame: NotRequired[list[Frame]]
    original_image: NotRequired[list[Tensor]]
    frozen: NotRequired[Any]
