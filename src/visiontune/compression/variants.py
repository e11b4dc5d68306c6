"""The variants of a run's model that are measured: eager, compiled and exported, each from image to predictions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from visiontune.deployment.files import Exported, OnnxFile, write
from visiontune.deployment.graph import build_graph
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.interfaces import require
from visiontune.runs.directory import RunDirectory

TOLERANCE = 1e-3  # relative and absolute, between compiled and eager outputs


@dataclass(frozen=True)
class Variant:
    """
    Attributes:
        call: images ``(B, C, H, W)`` uint8 -> `TASK.NAME` of every prediction; B is 1 unless `takes_batches`.
        place: the run directory or exported file that a new process can load; None for a compiled model.
        megabytes: size of the exported file, or of the weights.
    """

    name: str
    run: RunDirectory
    cfg: DictConfig
    model: FineTuner
    takes_batches: bool
    call: Callable[[Tensor], dict[str, Tensor]]
    place: Path | None
    megabytes: float

    def batch(self, images: Tensor) -> None:
        for part in images.split(len(images) if self.takes_batches else 1):
            self.call(part)


def eager_variant(name: str, run: RunDirectory, cfg: DictConfig) -> Variant:
    """The eager checkpoint, or the exported file if that is the run's model."""
    file = exported_file(run, cfg)
    graph, model = build_graph(run, cfg)
    if file is not None:
        return _file_variant(name, run, cfg, model, file)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values()) / 1e6
    return Variant(name, run, cfg, model, _takes_batches(model), torch.inference_mode()(graph), run.path, weights)


def exported_file(run: RunDirectory, cfg: DictConfig) -> Path | None:
    """The exported file of a quantized run, whose checkpoint holds the float weights."""
    return run.exports / "model.onnx" if cfg.get("backend") == "onnx" else None


def export_variant(name: str, run: RunDirectory, cfg: DictConfig, folder: Path) -> Variant:
    """Export the run into `folder`, to be run by onnxruntime."""
    graph, model = build_graph(run, cfg)
    file = folder / f"{name}.onnx"
    write(graph, file, "onnx")
    return _file_variant(name, run, cfg, model, file)


def compile_variant(name: str, eager: Variant, images: Tensor) -> Variant:
    """The eager variant with `torch.compile`.

    Raises:
        ValueError: its outputs for `images` differ from the eager ones.
    """
    graph, _ = build_graph(eager.run, eager.cfg)
    call = torch.inference_mode()(torch.compile(graph))
    outputs = call(images[: len(images) if eager.takes_batches else 1])
    for output, value in eager.call(images[: len(images) if eager.takes_batches else 1]).items():
        if value.is_floating_point() and not torch.allclose(outputs[output], value, TOLERANCE, TOLERANCE):
            raise ValueError(f"the compiled model gives other outputs: {output}")
    return replace(eager, name=name, call=call, place=None)


def _file_variant(name: str, run: RunDirectory, cfg: DictConfig, model: FineTuner, path: Path) -> Variant:
    file: Exported = OnnxFile(path)
    return Variant(name, run, cfg, model, _takes_batches(model), file, path, path.stat().st_size / 1e6)


def _takes_batches(model: FineTuner) -> bool:
    return all(head.graph_batch for head in require(model.heads, Exportable, "export").values())
