"""Boxes around objects."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.errors import UserError, pluralize
from visiontune.models.distributed import mean_over_ranks
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.coco_metrics import DETECTIONS, NUMBERS, CocoMetrics
from visiontune.models.heads.describable import Describable
from visiontune.models.heads.detection_distillation import distill_one_stage, distill_two_stage
from visiontune.models.heads.detector import build_detector
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.heads.distillable import Distillable
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.one_stage import OneStage
from visiontune.models.heads.overlays import draw_objects, side_by_side
from visiontune.models.heads.set_detector import SetDetector
from visiontune.models.heads.two_stage import TwoStage


class DetectionHead(Head, Describable, Exportable, Distillable):
    """A detector on the backbone's maps: FCOS, RetinaNet or Faster R-CNN of torchvision, or RT-DETR v2, D-FINE or
    RF-DETR of transformers.

    Crowds are left out of the training targets, as in torchvision's own training.

    Extra metrics are updated with a list of predictions (`boxes` xyxy in pixels of the image, `labels`, `scores`) and a
    list of targets (`boxes`, `labels`), the format of torchmetrics.detection; with masks, also `masks`.

    Args:
        info: the class names.
        detector: "fcos", "retinanet", "faster_rcnn", "rt_detr_v2", "d_fine" or "rf_detr".
        draw_threshold: boxes with a lower score are not drawn.
        options: see `DetectorOptions`.

    Raises:
        UserError: an unknown detector, an option that the detector does not have, or a backbone without suitable maps.
    """

    directions = dict.fromkeys(NUMBERS, "max") | {"loss": "min"}
    monitor = "map"
    masks = False
    graph_batch = False
    shared = ("anchors", "counts", "size", "objects")
    discrete_outputs = ("proposals", "kept")
    bootstrap_samples = 50  # the metrics take half a second

    def __init__(
        self,
        features: FeatureShape,
        info: TaskInfo,
        detector: str = "fcos",
        draw_threshold: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__()
        self.key = "heads.instances" if self.masks else "heads.detection"
        values = DetectorOptions.read(self.key, options)
        self.classes = list(info.classes)
        self.draw_threshold = draw_threshold
        self.max_detections = values.max_detections
        # The metrics count as many detections as there may be, see `CocoMetrics`.
        detections = max(DETECTIONS, self.max_detections)
        self.directions = {
            name.replace(f"mar_{DETECTIONS}", f"mar_{detections}"): mode for name, mode in self.directions.items()
        }
        self.detector = build_detector(detector, features, len(self.classes), values, self.masks)
        self.float16 = not isinstance(self.detector, SetDetector)
        if isinstance(self.detector, SetDetector):
            self.query_groups = {f"detector.{name}": count for name, count in self.detector.query_groups.items()}

    def forward(self, features: Features) -> Raw:
        return self.detector(features.maps, features.size)

    def loss(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        """The library's losses, under its names; images without a label are left out."""
        if isinstance(self.detector, SetDetector):  # the same number on all ranks, as in DETR
            count = sum(len(_training_target(target)["labels"]) for target in targets if target is not None)
            raw = {**raw, "objects": mean_over_ranks(count, raw["level_0"].device)}
        return self._losses(raw, targets)

    def _losses(self, raw: Raw, targets: list[Any]) -> dict[str, Tensor]:
        rows = [i for i, target in enumerate(targets) if target is not None]
        if not rows:
            return {"loss": self.detector.zero_loss(raw)}
        labelled = raw if len(rows) == len(targets) else _select(raw, rows)
        return self.detector.losses(labelled, [_training_target(targets[i]) for i in rows])

    def sample_loss(self, raw: Raw, targets: list[Any]) -> Tensor:
        """``(B,)``, the loss of each image by itself; random samples are the same at each call."""
        device = next(value.device for value in raw.values() if isinstance(value, Tensor))
        losses = torch.full((len(targets),), torch.nan, device=device)
        for i, target in enumerate(targets):
            if target is not None:
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(0)
                    losses[i] = torch.stack([*self._losses(_select(raw, [i]), [target]).values()]).sum()
        return losses

    def distill(self, raw: Raw, teacher: Self, teacher_outputs: Raw, temperature: float) -> Tensor:
        other = teacher.detector
        if isinstance(self.detector, OneStage) and isinstance(other, OneStage):
            return distill_one_stage(self.detector, raw, other, teacher_outputs)
        if isinstance(self.detector, TwoStage) and isinstance(other, TwoStage):
            return distill_two_stage(self.detector, raw, other, teacher_outputs, temperature)
        if isinstance(self.detector, SetDetector) or isinstance(other, SetDetector):
            comparable = "mask_rcnn" if self.masks else "fcos"
            raise UserError(
                "distill.teacher: the queries of transformers have no order, so their outputs cannot be compared; "
                f"write {self.key}.detector={comparable} for this run and for the teacher"
            )
        raise UserError(
            "distill.teacher: either the teacher or this run is a faster_rcnn, and their outputs cannot be compared; "
            f"write the teacher's {self.key}.detector"
        )

    @torch.no_grad()
    def decode(self, raw: Raw, frames: Sequence[Frame]) -> list[Prediction]:
        """`boxes` ``(N, 4)``, `labels` ``(N,)`` and `scores` ``(N,)``, best first."""
        predictions = []
        for frame, objects in zip(frames, self.detector.detect(raw), strict=True):
            inside = has_area(frame.boxes(objects["boxes"]))  # some boxes are in the padding around the image
            predictions.append(self._to_image(frame, {name: value[inside] for name, value in objects.items()}))
        return predictions

    def graph(self, raw: Raw, frame: Frame) -> Prediction:
        """As in `decode`, for one image."""
        objects = self.detector.graph(raw)
        inside = has_area(frame.boxes(objects["boxes"]))
        return self._to_image(frame, {name: value[inside] for name, value in objects.items()})

    def _to_image(self, frame: Frame, objects: dict[str, Tensor]) -> Prediction:
        """From pixels of the network's input to pixels of the image."""
        return {"boxes": frame.boxes(objects["boxes"]), "labels": objects["labels"], "scores": objects["scores"]}

    def metrics(self) -> CocoMetrics:
        return CocoMetrics(self.classes, max_detections=self.max_detections)

    def data_notes(self, labels: Iterable[Sequence[int]], key: str) -> list[str]:
        counts = [len(objects) for objects in labels]
        limits = {f"{key}.max_detections": self.max_detections}
        if isinstance(self.detector, SetDetector):
            limits[f"++{key}.transformer.num_queries"] = self.detector.queries  # also if there is no such key
        notes = []
        for name, limit in limits.items():
            if dense := [count for count in counts if count > limit]:
                notes.append(
                    f"{pluralize(len(dense), 'image has', 'images have')} more objects than the {limit} that "
                    f"{key} predicts in an image, up to {max(dense)}: write {name}={max(dense)}"
                )
        return notes

    def metric_inputs(self, predictions: list[Prediction], targets: list[Any]) -> Iterable[tuple[Any, Any]]:
        plain = [{name: value.as_subclass(Tensor) for name, value in target.items()} for target in targets]
        device = predictions[0]["boxes"].device
        yield predictions, [{name: v.to(device) for name, v in t.items() if name != "crowd"} for t in plain]

    def per_class_scores(self, computed: Mapping[str, Any]) -> dict[str, Tensor]:
        return computed["ap_per_class"].as_dict()

    def class_rows(self) -> dict[str, ClassRows]:
        return {f"detector.{name}": rows for name, rows in self.detector.class_rows().items()}

    def describe(self, prediction: Prediction) -> tuple[str, float]:
        """The objects as JSON, best first, and the score of the best."""
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
        images = {}
        if target is not None:
            crowds = target["crowd"].tolist()
            names = [self.classes[i] for i in target["labels"].tolist()]
            names = [f"{name} (crowd)" if crowd else name for name, crowd in zip(names, crowds, strict=True)]
            images["truth"] = self._draw_objects(image, target, names)
        if prediction is not None:
            confident = prediction["scores"] >= self.draw_threshold
            objects = {name: value[confident] for name, value in prediction.items()}
            labelled = zip(objects["labels"].tolist(), objects["scores"].tolist(), strict=True)
            names = [f"{self.classes[label]} {score:.0%}" for label, score in labelled]
            images["prediction"] = self._draw_objects(image, objects, names)
        return side_by_side(list(images.values()), list(images)) if len(images) > 1 else [*images.values(), image][0]

    def _draw_objects(self, image: Tensor, objects: dict[str, Tensor], names: list[str]) -> Tensor:
        return draw_objects(image, objects["boxes"], names, objects.get("masks"), self.classes)


def _select(raw: Raw, rows: list[int]) -> Raw:
    """Raw tensors of some images of the batch."""
    return {name: value if name in DetectionHead.shared else value[rows] for name, value in raw.items()}


def _training_target(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors, without crowds and boxes without area (their sides have no logarithm)."""
    plain = {name: value.as_subclass(Tensor) for name, value in target.items()}
    objects = ~plain["crowd"] & has_area(plain["boxes"])
    return {name: value[objects] for name, value in plain.items() if name != "crowd"}


def has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def _json(objects: list[dict[str, Any]]) -> str:
    return json.dumps(objects, separators=(",", ":"), ensure_ascii=False)
