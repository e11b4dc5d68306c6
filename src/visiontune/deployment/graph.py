"""The exported graph: from an original image to predictions in pixels of that image."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from visiontune import __version__
from visiontune.data import TaskInfo
from visiontune.data.geometry import eval_frame, resized_size
from visiontune.data.images import ImageDecoder
from visiontune.data.loaders import as_size
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.interfaces import require
from visiontune.runs.directory import RunDirectory
from visiontune.training.load import load_model


class Graph(nn.Module):
    """Original images of one size ``(B, C, H, W)`` uint8, any H and W -> predictions by `TASK.NAME`, see `Exportable`.

    `raw.TASK.NAME` are the heads' raw tensors, for losses and comparisons.

    Args:
        schema: the tasks with their class names.
        size, resize, fill: how an image is fitted to the network's input, see `eval_transform`; fill is 0..255.
        decoder: how the run reads image files.
        checkpoint: SHA-256 of the checkpoint file.
    """

    def __init__(
        self,
        model: FineTuner,
        schema: Mapping[str, TaskInfo],
        size: tuple[int, int],
        resize: str,
        fill: float,
        decoder: ImageDecoder,
        checkpoint: str,
    ) -> None:
        super().__init__()
        self.schema, self.decoder, self.checkpoint = dict(schema), decoder, checkpoint
        self.backbone, self.heads = model.backbone, model.heads
        require(model.heads, Exportable, "export")
        self.size, self.resize, self.fill = size, resize, fill / 255

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        image_size = image.shape[-2], image.shape[-1]
        features = self.backbone(self.fit(image))
        outputs: dict[str, Tensor] = {}
        for task, head in self.heads.items():
            raw, exportable = head(features), cast(Exportable, head)
            predictions = exportable.graph(raw, eval_frame(self.resize, image_size, self.size))
            outputs |= {f"{task}.{name}": value for name, value in predictions.items()}
            tensors = {name: value for name, value in raw.items() if isinstance(value, Tensor)}
            outputs |= {f"raw.{task}.{n}": v for n, v in tensors.items() if n not in exportable.training_only}
        return outputs

    def fit(self, original_image: Tensor) -> Tensor:
        """Fit an image like `eval_transform`, with operations that can be exported: ``(B, C, h, w)`` in 0..1."""
        image_size = original_image.shape[-2], original_image.shape[-1]
        image = original_image.float() / 255
        size = resized_size(self.resize, image_size, self.size)
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        frame = eval_frame(self.resize, image_size, self.size)
        top, left, height, width = frame.inside
        if self.resize == "crop":
            return image[..., -top : self.size[0] - top, -left : self.size[1] - left]
        if self.resize == "letterbox":
            sides = (left, self.size[1] - width - left, top, self.size[0] - height - top)
            # The slice tells the tracer that this has the input's size.
            return F.pad(image, sides, value=self.fill)[..., : self.size[0], : self.size[1]]
        return image

    @torch.no_grad()
    def metadata(self) -> dict[str, Any]:
        """The metadata of the file as plain data, see `Exported`."""
        features = self.backbone(torch.zeros(1, self.backbone.in_channels, *self.size))
        raw = {task: head(features) for task, head in self.heads.items()}
        return {
            "version": __version__,
            "checkpoint": self.checkpoint,
            "tasks": {task: {"kind": info.kind, "classes": list(info.classes)} for task, info in self.schema.items()},
            "image_size": self.size,
            "resize": self.resize,
            "channels": self.backbone.in_channels,
            "orientation": self.decoder.orientation,
            "grey_range": self.decoder.grey_range,
            "max_pixels": self.decoder.max_pixels,
            "plain": {
                task: {name: value for name, value in values.items() if not isinstance(value, Tensor)}
                for task, values in raw.items()
            },
        }


def build_graph(run: RunDirectory, cfg: DictConfig, which: str = "best") -> tuple[Graph, FineTuner]:
    """Load a run's model, with LoRA adapters merged; return its graph (image to predictions) and the model."""
    model, schema = load_model(run, cfg, which, plain=True)
    model.eval().requires_grad_(False)
    size, resize, fill = as_size(cfg.data.image_size), cfg.data.resize, cfg.augment.fill
    decoder = ImageDecoder.from_config(cfg.data)
    return Graph(model, schema, size, resize, fill, decoder, run.digest(which)).eval(), model


def example_image(graph: Graph) -> Tensor:
    """An image to trace with, of another height and width than the input; two images if the graph takes batches."""
    height, width = graph.size[0] + 37, graph.size[1] + 59
    return torch.randint(
        0, 256, (2 if takes_batches(graph) else 1, graph.backbone.in_channels, height, width), dtype=torch.uint8
    )


def dimensions(graph: Graph) -> dict[str, Any]:
    """The dynamic dimensions for `torch.export`."""
    sides = {2: torch.export.Dim("height", min=2, max=2**15), 3: torch.export.Dim("width", min=2, max=2**15)}
    return {"image": {0: torch.export.Dim("batch", max=2**15), **sides} if takes_batches(graph) else sides}


def takes_batches(model: Graph | FineTuner) -> bool:
    """Whether the exported graph takes more than one image."""
    return all(head.graph_batch for head in require(model.heads, Exportable, "export").values())
