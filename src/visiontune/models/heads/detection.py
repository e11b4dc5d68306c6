"""Boxes around objects."""

import json
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.coco_metrics import NUMBERS, CocoMetrics
from visiontune.models.heads.detection_distillation import one_stage_apart, two_stage_apart
from visiontune.models.heads.one_stage import OneStage
from visiontune.models.heads.overlays import beside, objects_picture
from visiontune.models.heads.pyramid import Pyramid
from visiontune.models.heads.two_stage import TwoStage


class DetectionHead(Head):
    """torchvision's FCOS, RetinaNet or Faster R-CNN on a pyramid of the backbone's maps.

    Crowds are left out of the training targets, as in torchvision's own training.

    Args:
        info: the class names.
        detector: "fcos", "retinanet" or "faster_rcnn".
        channels: width of the pyramid and of everything on it.
        finest: stride of the finest level, in pixels; None = 8, in a faster_rcnn 4.
        convs: convolutions before the outputs; None = 4, before a faster_rcnn's proposals 1.
        anchor_sizes: sides of the square anchors in pixels of the input, one number or list a level; None = 4 strides
            (and 8 in a faster_rcnn; in a retinanet three between 4 and 8).
        proposals, samples, hidden: of a faster_rcnn, see `TwoStage`; None = its own.
        score_threshold: boxes below it are no predictions. Low, since average precision counts them all.
        nms_threshold: of two boxes of one class that overlap by more, the better one stays; None = torchvision's own
            (0.6 of an fcos, 0.5 of the others).
        max_detections: in an image.
        draw_threshold: boxes below it are in no image.

    Raises:
        UserError: an unknown detector, an option that this one does not have, or a backbone without fitting maps.
    """

    directions = dict.fromkeys(NUMBERS, "max") | {"loss": "min"}
    monitor = "map"
    masks = False
    graph_batch = False
    shared = ("anchors", "counts", "size")
    picked = ("proposals", "kept")
    bootstrap_samples = 50  # half a second each

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        detector: str = "fcos",
        channels: int = 128,
        finest: int | None = None,
        convs: int | None = None,
        anchor_sizes: list[float | list[float]] | None = None,
        proposals: int | None = None,
        samples: int | None = None,
        hidden: int | None = None,
        score_threshold: float = 0.05,
        nms_threshold: float | None = None,
        max_detections: int = 100,
        draw_threshold: float = 0.3,
    ) -> None:
        super().__init__()
        if detector not in ("fcos", "retinanet", "faster_rcnn"):
            raise UserError(f"detector={detector}: write fcos, retinanet or faster_rcnn")
        self.classes = list(info.classes)
        self.draw_threshold = draw_threshold
        options: dict[str, Any] = {
            "anchor_sizes": anchor_sizes,
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_detections": max_detections,
        } | ({} if convs is None else {"convs": convs})
        looks = {"proposals": proposals, "samples": samples, "hidden": hidden}
        given: dict[str, Any] = {name: value for name, value in looks.items() if value is not None}
        if detector == "faster_rcnn":
            pyramid = Pyramid(features, channels, finest or 4, extra="pool")
            self.detector: OneStage | TwoStage = TwoStage(
                pyramid, len(self.classes), masks=self.masks, **given, **options
            )
        elif given:
            raise UserError(f"{next(iter(given))} is no option of detector={detector}; write detector=faster_rcnn")
        else:
            self.detector = OneStage(detector, Pyramid(features, channels, finest or 8), len(self.classes), **options)

    def forward(self, features: Features) -> Raw:
        return self.detector(features.maps, features.size)

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """torchvision's losses, under its names; images without a label take no part in them."""
        rows = [i for i, target in enumerate(targets) if target is not None]
        if not rows:
            return {"loss": self.detector.nothing(raw)}
        labelled = raw if len(rows) == len(targets) else _rows(raw, rows)
        return self.detector.losses(labelled, [_trainable(targets[i]) for i in rows])

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        """``(B,)``, the loss of each image alone; what is sampled in it is the same at each call."""
        device = raw["anchors"].device
        losses = torch.full((len(targets),), torch.nan, device=device)
        for i, target in enumerate(targets):
            if target is not None:
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(0)
                    losses[i] = torch.stack([*self.loss(_rows(raw, [i]), [target]).values()]).sum()
        return losses

    def distill(self, raw: Raw, teacher: Self, taught: Raw, temperature: float) -> Tensor:
        other = teacher.detector
        if isinstance(self.detector, OneStage) and isinstance(other, OneStage):
            return one_stage_apart(self.detector, raw, other, taught)
        if isinstance(self.detector, TwoStage) and isinstance(other, TwoStage):
            return two_stage_apart(self.detector, raw, other, taught, temperature)
        raise UserError(
            "distill.teacher: of it and this run one is a faster_rcnn and the other is not, and what they give cannot "
            "be compared; write the teacher's heads.detection.detector"
        )

    @torch.no_grad()
    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`boxes` ``(N, 4)``, `labels` ``(N,)`` and `scores` ``(N,)``, best first."""
        predictions = []
        for frame, found in zip(frames, self.detector.detections(raw), strict=True):
            seen = has_area(frame.boxes(found["boxes"]))  # some lie in the border around the image
            predictions.append(self._in(frame, {name: value[seen] for name, value in found.items()}))
        return predictions

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """As in `decode`, of the one image."""
        found = self.detector.graph(raw)
        seen = has_area(frame.boxes(found["boxes"]))
        return self._in(frame, {name: value[seen] for name, value in found.items()})

    def _in(self, frame: Frame, found: dict[str, Tensor]) -> Prediction:
        """Detections in the network's input as a prediction in the image."""
        return {"boxes": frame.boxes(found["boxes"]), "labels": found["labels"], "scores": found["scores"]}

    def metrics(self) -> CocoMetrics:
        return CocoMetrics(self.classes)

    def per_class_scores(self, computed: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: computed[f"ap/{name}"] for name in self.classes}

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The objects as JSON, best first, and the best one's score."""
        scores = prediction["scores"].tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        objects = self._objects(prediction)
        text = [{"label": objects[i]["label"], "score": round(scores[i], 3), "box": objects[i]["box"]} for i in order]
        return _json(text), max(scores, default=float("nan"))

    def describe_target(self, target: Any) -> str:
        return "" if target is None else _json(self._objects(target))

    def _objects(self, objects: dict[str, Tensor]) -> list[dict[str, Any]]:
        boxes = [[round(x, 1) for x in box] for box in objects["boxes"].tolist()]
        labels = [self.classes[label] for label in objects["labels"].tolist()]
        return [{"label": label, "box": box} for label, box in zip(labels, boxes, strict=True)]

    def draw(self, image: Tensor, prediction: Prediction | None, target: Any = None) -> Tensor:
        pictures = {}
        if target is not None:
            crowd = target["crowd"].tolist()
            names = [self.classes[i] for i in target["labels"].tolist()]
            names = [f"{name} (crowd)" if many else name for name, many in zip(names, crowd, strict=True)]
            pictures["truth"] = self._picture(image, target, names)
        if prediction is not None:
            shown = prediction["scores"] >= self.draw_threshold
            found = {name: value[shown] for name, value in prediction.items()}
            each = zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
            names = [f"{self.classes[label]} {score:.0%}" for label, score in each]
            pictures["prediction"] = self._picture(image, found, names)
        return beside(list(pictures.values()), list(pictures)) if len(pictures) > 1 else [*pictures.values(), image][0]

    def _picture(self, image: Tensor, objects: dict[str, Tensor], names: list[str]) -> Tensor:
        return objects_picture(image, objects["boxes"], names, objects.get("masks"), self.classes)


def _rows(raw: Raw, rows: list[int]) -> Raw:
    """Raw tensors of some images of the batch."""
    return {name: value if name in DetectionHead.shared else value[rows] for name, value in raw.items()}


def _trainable(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors of what is no crowd, nor without area, whose sides have no logarithm."""
    plain = {name: value.as_subclass(Tensor) for name, value in target.items()}
    kept = ~plain["crowd"] & has_area(plain["boxes"])
    return {name: value[kept] for name, value in plain.items() if name != "crowd"}


def has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def _json(objects: list[dict[str, Any]]) -> str:
    return json.dumps(objects, separators=(",", ":"), ensure_ascii=False)
