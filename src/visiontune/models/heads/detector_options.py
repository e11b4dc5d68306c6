"""The options of detectors."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self

from torch import nn

from visiontune.errors import UserError


@dataclass(frozen=True)
class DetectorOptions:
    """Options of `DetectionHead` and `InstancesHead`; None = the default of the detector.

    Attributes:
        key: of the head in the config, for messages.
        transformer: arguments of the model's config in transformers, such as `num_queries`. Only rt_detr_v2, d_fine
            and rf_detr have it; of the other options they have `score_threshold` and `max_detections`.
        channels: width of the pyramid and of everything on it.
        min_stride: stride of the finest level, in pixels; None = 8, with faster_rcnn 4.
        convs: convolutions before the outputs; None = 4, with faster_rcnn 1 (before the proposals).
        norm: norm layers. "group" or, with retinanet, "none" in the convolutions before the outputs; with faster_rcnn
            "none", "batch" or "group" in the pyramid and in the convolutions on each proposal. None = the first.
        extra_levels: input of the two coarsest levels of fcos and retinanet: "pyramid" (None; its coarsest level) or
            "backbone" (the coarsest map).
        anchor_sizes: sides of the square anchors in pixels of the input, one number or list per level; None = multiples
            of the stride: 4 and 8 with faster_rcnn, three from 4 to 6.3 with retinanet.
        anchor_strides: distance between neighbouring anchors: "level" (the stride of the level) or "image" (the
            side of the input divided by the side of the map, rounded down, as in torchvision's models).
        candidates: boxes per level before non-maximum suppression; with faster_rcnn, proposals per level.
        proposals, proposal_threshold, samples, box_convs, hidden: options of faster_rcnn, see `TwoStage`.
        classification_loss, box_loss: modules instead of torchvision's losses, see
            `visiontune.models.heads.detection_losses`; with retinanet, `box_loss` may be a name: "l1" (None),
            "smooth_l1", "giou", "diou" or "ciou".
        score_threshold: boxes with a lower score are dropped. Low, since average precision counts all boxes.
        nms_threshold: of two boxes of one class that overlap by more, the one with the lower score is dropped; None =
            torchvision's default (fcos 0.6, the others 0.5).
        max_detections: largest number of boxes per image.
    """

    key: str
    transformer: Mapping[str, Any] | None = None
    channels: int = 128
    min_stride: int | None = None
    convs: int | None = None
    norm: str | None = None
    extra_levels: str | None = None
    anchor_sizes: list[float | list[float]] | None = None
    anchor_strides: str = "level"
    candidates: int = 1000
    proposals: int | None = None
    proposal_threshold: float | None = None
    samples: int | None = None
    box_convs: int | None = None
    hidden: int | None = None
    classification_loss: nn.Module | None = None
    box_loss: nn.Module | str | None = None
    score_threshold: float = 0.05
    nms_threshold: float | None = None
    max_detections: int = 100

    @classmethod
    def read(cls, key: str, options: Mapping[str, Any]) -> Self:
        """
        Raises:
            UserError: an unknown option, or a value that no detector has.
        """
        names = [field.name for field in fields(cls) if field.name != "key"]
        for name in options:
            if name not in names:
                near = [f"{key}.{match}" for match in get_close_matches(name, names, cutoff=0.5)] or names
                raise UserError(f"{key}.{name}: a detector has no such option; near it: {', '.join(near)}")
        values = cls(key, **options)
        for name, choices in (("extra_levels", ("pyramid", "backbone")), ("anchor_strides", ("level", "image"))):
            value = getattr(values, name)
            if value not in (None, *choices):
                raise UserError(f"{key}.{name}={value}: write {' or '.join(choices)}")
        for name in ("candidates", "proposals", "samples", "hidden"):
            value = getattr(values, name)
            if value is not None and value < 1:
                raise UserError(f"{key}.{name}={value}: write 1 or more")
        return values
