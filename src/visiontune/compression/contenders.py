"""The forms of a run's model that are measured: eager, compiled, exported; each from an image to its predictions."""

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

CLOSE = 1e-3  # of compiled and eager numbers, over the largest one


@dataclass(frozen=True)
class Contender:
    """
    Attributes:
        call: images ``(B, C, H, W)`` uint8 -> `TASK.NAME` of every prediction; one at a time where not `several`.
        place: what a new process can load it from: a run directory, or an exported file; None for a compiled one.
        megabytes: of the file; of an eager or compiled model, of its weights.
    """

    name: str
    run: RunDirectory
    cfg: DictConfig
    model: FineTuner
    several: bool
    call: Callable[[Tensor], dict[str, Tensor]]
    place: Path | None
    megabytes: float

    def batch(self, pictures: Tensor) -> None:
        for part in pictures.split(len(pictures) if self.several else 1):
            self.call(part)


def as_it_is(name: str, run: RunDirectory, cfg: DictConfig) -> Contender:
    """Its checkpoint, eager; or the exported file where that is the run's model."""
    file = own_file(run, cfg)
    graph, model = build_graph(run, cfg)
    if file is not None:
        return _of_file(name, run, cfg, model, file)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values()) / 1e6
    return Contender(name, run, cfg, model, _several(model), torch.inference_mode()(graph), run.path, weights)


def own_file(run: RunDirectory, cfg: DictConfig) -> Path | None:
    """The exported file that is the run's model, where its checkpoint has what that was made of."""
    return run.exports / "model.onnx" if cfg.get("backend") == "onnx" else None


def exported(name: str, run: RunDirectory, cfg: DictConfig, folder: Path) -> Contender:
    """Through onnxruntime, by a file that is written into `folder`."""
    graph, model = build_graph(run, cfg)
    file = folder / f"{name}.onnx"
    write(graph, file, "onnx")
    return _of_file(name, run, cfg, model, file)


def compiled(name: str, eager: Contender, pictures: Tensor) -> Contender:
    """The same through `torch.compile`.

    Raises:
        ValueError: it gives other numbers for the images.
    """
    graph, _ = build_graph(eager.run, eager.cfg)
    call = torch.inference_mode()(torch.compile(graph))
    found = call(pictures[: len(pictures) if eager.several else 1])
    for output, value in eager.call(pictures[: len(pictures) if eager.several else 1]).items():
        if value.is_floating_point() and not torch.allclose(found[output], value, CLOSE, CLOSE):
            raise ValueError(f"compiled it gives other numbers: {output}")
    return replace(eager, name=name, call=call, place=None)


def _of_file(name: str, run: RunDirectory, cfg: DictConfig, model: FineTuner, path: Path) -> Contender:
    file: Exported = OnnxFile(path)
    return Contender(name, run, cfg, model, _several(model), file, path, path.stat().st_size / 1e6)


def _several(model: FineTuner) -> bool:
    return all(head.graph_batch for head in require(model.heads, Exportable, "export").values())
