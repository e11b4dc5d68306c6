"""The base class of detectors whose queries each predict one object or none; they need no non-maximum suppression."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from visiontune.errors import UserError, first_line
from visiontune.models.heads.base import Raw
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.detector_options import DetectorOptions
from visiontune.models.transformers_library import check_arguments, import_transformers

NO_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"


class SetDetector(nn.Module, ABC):
    """A detector of Hugging Face transformers on the maps of a backbone.

    The network and its loss are the library's. The loss matches predictions and objects one to one (Hungarian
    matching) after every layer of the decoder. What the library adds in training (denoising queries, groups of
    queries) is also in the losses of an evaluation.

    Raw tensors: `level_0`, ... (maps ``(B, C, h, w)`` that the decoder reads); shared by all images `size` (H, W) and,
    for the losses, `objects` (the number that divides them; by default that of the objects in the batch).

    Attributes:
        queries: largest number of objects per image.
        strides: of the maps that the decoder reads, in pixels.
        query_groups: see `Head`.
    """

    query_groups: Mapping[str, int] = {}

    def __init__(self, kind: str, classes: int, options: DetectorOptions) -> None:
        super().__init__()
        self.kind, self.key, self.classes = kind, options.key, classes
        self.score_threshold, self.max_detections = options.score_threshold, options.max_detections
        self.queries = 0
        self.strides: Sequence[int] = ()

    @abstractmethod
    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Raw:
        """The raw tensors."""

    @abstractmethod
    def class_rows(self) -> dict[str, ClassRows]:
        """See `Head.class_rows`."""

    @abstractmethod
    def predict(self, raw: Raw) -> dict[str, Tensor]:
        """`logits` ``(B, Q, C)`` and `boxes` ``(B, Q, 4)``: center, width and height as fractions of the input.

        Other tensors ``(B, Q, ...)`` belong to the queries as well.
        """

    @abstractmethod
    def losses(self, raw: Raw, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The library's losses of these images by name, each summed over all layers."""

    def zero_loss(self, raw: Raw) -> Tensor:
        """Zero, connected to the graph."""
        return 0 * torch.stack([value.sum() for value in self.predict(raw).values()]).sum()

    def detect(self, raw: Raw) -> list[dict[str, Tensor]]:
        """`boxes` in pixels of the input, `labels` from 0 and `scores` of every image, best first."""
        objects = self._select(raw)
        valid = objects["scores"] > self.score_threshold
        return [{name: value[i][valid[i]] for name, value in objects.items()} for i in range(len(valid))]

    def graph(self, raw: Raw) -> dict[str, Tensor]:
        """`detect` for a batch of one image, with operations that can be exported."""
        with _no_checks():
            objects = {name: value[0] for name, value in self._select(raw).items()}
        valid = objects["scores"] > self.score_threshold
        return {name: value[valid] for name, value in objects.items()}

    def _select(self, raw: Raw) -> dict[str, Tensor]:
        """The `max_detections` pairs of query and class with the highest scores, as the library's post-processing."""
        outputs, (height, width) = self.predict(raw), raw["size"]
        logits, boxes = outputs.pop("logits"), outputs.pop("boxes")
        count = min(self.max_detections, logits.shape[1] * self.classes)
        scores, indices = logits.sigmoid().flatten(1).topk(count)
        boxes = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
        queries = torch.div(indices, self.classes, rounding_mode="floor")
        images = torch.arange(len(queries), device=queries.device)[:, None]
        rest = {name: value[images, queries] for name, value in outputs.items()}
        return {"boxes": boxes[images, queries], "scores": scores, "labels": indices % self.classes, **rest}

    def check_size(self, size: tuple[int, int]) -> None:
        """Check that images of this size (H, W) have a cell of the maps for each query to begin at.

        Raises:
            UserError: they have fewer cells.
        """
        height, width = size
        cells = sum((height // stride) * (width // stride) for stride in self.strides)
        if cells < self.queries:
            raise UserError(
                f"data.image_size={list(size)}: images of {height}x{width} pixels give {cells} cells for the "
                f"{self.queries} queries of {self.key} to begin at; write larger images, or "
                f"++{self.key}.transformer.num_queries={cells}"
            )


def build_network(kind: str, names: tuple[str, str], values: Mapping[str, Any], backbone: Any, key: str) -> Any:
    """The library's model with a backbone that is small, since it is replaced.

    Args:
        names: classes of the config and the model.
        values: arguments of the config.

    Raises:
        UserError: transformers is missing or too old, or a wrong argument.
    """
    library = import_transformers(f"{key}.detector={kind}")
    make_config = getattr(library, names[0])
    known = {*make_config().to_dict(), "num_labels"}
    check_arguments(values, known, f"{key}.transformer", f"{names[0]} of transformers")
    try:
        return getattr(library, names[1])(make_config(**values, backbone_config=backbone))
    except Exception as error:  # the library's checks raise errors of many types
        raise UserError(
            f"{key}.transformer: transformers cannot build this {kind} ({first_line(error)[:200]})"
        ) from error


def as_labels(targets: Sequence[dict[str, Tensor]], size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Targets as the library expects them: centers and sides as fractions of the input."""
    height, width = size
    labels = []
    for target in targets:
        boxes = target["boxes"] / target["boxes"].new_tensor([width, height, width, height])
        rest = {"masks": target["masks"]} if "masks" in target else {}
        labels.append({"class_labels": target["labels"], "boxes": box_convert(boxes, "xyxy", "cxcywh").float(), **rest})
    return labels


@contextmanager
def training_mode(value: bool, *modules: Any) -> Iterator[None]:
    """Whether the library's forward pass adds what it adds in training.

    It reads the mode of these modules for that; the modes of their layers stay.
    """
    modes = [module.training for module in modules]
    for module in modules:
        module.training = value
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def _no_checks() -> Iterator[None]:
    """Switch off the library's checks of shapes, which ONNX cannot express."""
    before = os.environ.get(NO_CHECKS)
    os.environ[NO_CHECKS] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_CHECKS) if before is None else os.environ.update({NO_CHECKS: before})
