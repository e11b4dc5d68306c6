"""The options that one-stage and two-stage detectors share."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class DetectorOptions:
    """Options of every detector; `DetectionHead` describes them.

    Attributes:
        key: of the head in the config, for messages.
    """

    key: str
    anchor_sizes: list[float | list[float]] | None
    score_threshold: float
    nms_threshold: float | None
    max_detections: int
    classification_loss: nn.Module | None
    box_loss: nn.Module | None
