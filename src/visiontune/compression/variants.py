"""The variants of a run's model that are measured: eager, compiled and exported, each from image to predictions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from visiontune.deployment.files import Exported, OnnxFile, write
from visiontune.deployment.graph import build_graph, takes_batches
from visiontune.models.finetuner import FineTuner
from visiontune.runs.directory import RunDirectory

TOLERANCE = 1e-3  # relative and absolute, between compiled and eager outputs


@dataclass(frozen=True)
class Variant:
    """A form of a run's model.

    Attributes:
        call: images ``(B, C, H, W)`` uint8 -> predictions by `TASK.NAME`; B is 1 unless `takes_batches`.
        path: the run directory or exported file that a new process can load; None for a compiled model.
        megabytes: size of the exported file, or of the weights.
    """

    name: str
    run: RunDirectory
    cfg: DictConfig
    model: FineTuner
    takes_batches: bool
    call: Callable[[Tensor], dict[str, Tensor]]
    path: Path | None
    megabytes: float

    def batch(self, images: Tensor) -> None:
        """Call the model on all images, in one batch if it takes batches."""
        for part in images.split(len(images) if self.takes_batches else 1):
            self.call(part)


def eager_variant(name: str, run: RunDirectory, cfg: DictConfig) -> Variant:
    """The checkpoint in eager mode, or the exported file if that is the run's model."""
    file = exported_file(run, cfg)
    graph, model = build_graph(run, cfg)
    if file is not None:
        return _file_variant(name, run, cfg, model, file)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values()) / 1e6
    return Variant(name, run, cfg, model, takes_batches(model), torch.inference_mode()(graph), run.path, weights)


def exported_file(run: RunDirectory, cfg: DictConfig) -> Path | None:
    """The exported file of a quantized run, whose checkpoint holds the float weights."""
    return run.exports / "model.onnx" if cfg.get("backend") == "onnx" else None


def export_variant(name: str, run: RunDirectory, cfg: DictConfig, folder: Path) -> Variant:
    """Export the run to `folder`, for onnxruntime."""
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
    images = images if eager.takes_batches else images[:1]
    outputs = call(images)
    for key, value in eager.call(images).items():
        if value.is_floating_point() and not torch.allclose(outputs[key], value, TOLERANCE, TOLERANCE):
            raise ValueError(f"the compiled model has other outputs than the eager model: {key}")
    return replace(eager, name=name, call=call, path=None)


def _file_variant(name: str, run: RunDirectory, cfg: DictConfig, model: FineTuner, path: Path) -> Variant:
    file: Exported = OnnxFile(path)
    return Variant(name, run, cfg, model, takes_batches(model), file, path, path.stat().st_size / 1e6)
