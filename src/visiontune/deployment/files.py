"""Exported files: written by `export`, read by `evaluate`, `predict` and whoever has onnxruntime."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visiontune.deployment.graph import Graph, dimensions, sample_of
from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.interfaces import require
from visiontune.runs.directory import RunDirectory

NAMES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
OPSET = 18  # the first whose Resize is antialiased


class Exported(ABC):
    """A file that gives predictions. Call it with images ``(B, C, H, W)`` uint8; see `Graph` for what it gives.

    Attributes:
        metadata: `version`, `checkpoint` (the SHA-256 of what it was made of), `image_size`, `resize`, `channels`,
            `tasks` (kind and class names) and `plain` (numbers of the raw outputs that are no tensors).
    """

    metadata: dict[str, Any]

    @abstractmethod
    def __call__(self, pictures: Tensor) -> dict[str, Tensor]: ...

    def outputs(self, pictures: Sequence[Tensor], heads: Mapping[str, Head]) -> dict[str, tuple[Raw, list[Prediction]]]:
        """By task, the raw outputs of a batch and a prediction an image. The images may differ in size."""
        each = [self(picture[None]) for picture in pictures]
        found: dict[str, tuple[Raw, list[Prediction]]] = {}
        for task, head in require(heads, Exportable, "export").items():
            raw: Raw = dict(self.metadata["plain"][task])
            for name in [name for name in each[0] if name.startswith(f"raw.{task}.")]:
                key, parts = name.removeprefix(f"raw.{task}."), [one[name] for one in each]
                raw[key] = parts[0] if key in head.shared else torch.cat(parts)
            predictions = [
                {
                    name.removeprefix(f"{task}."): value[0] if head.graph_batch else value
                    for name, value in one.items()
                    if name.startswith(f"{task}.")
                }
                for one in each
            ]
            found[task] = raw, predictions
        return found


def run_through(model: FineTuner, exported: Exported) -> None:
    """Let evaluation and prediction take what the file gives; batches need the `image` as stored."""
    model.outputs = lambda batch: exported.outputs(batch["original_image"], model.heads)  # type: ignore[method-assign]


class OnnxFile(Exported):
    """Through onnxruntime, on the processor."""

    def __init__(self, path: Path) -> None:
        onnxruntime = library("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]
        self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["visiontune"])

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        values = self.session.run(None, {"picture": pictures.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self.names, values, strict=True)}


class TorchFile(Exported):
    """Through `torch.export`, on the processor."""

    def __init__(self, path: Path) -> None:
        more = {"visiontune.json": ""}
        # What was guessed of sizes while tracing need not hold for every image: the verification shows what does.
        self.module = torch.export.load(path, extra_files=more).module(check_guards=False)
        self.metadata = json.loads(more["visiontune.json"])

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        return self.module(pictures)


OPEN: dict[str, Callable[[Path], Exported]] = {"onnx": OnnxFile, "torch_export": TorchFile}


def write(graph: Graph, path: Path, form: str) -> None:
    """One file with graph, weights and metadata.

    Raises:
        UserError: the form's library is missing.
    """
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            library(name)
    text = json.dumps(graph.metadata())
    picture = sample_of(graph)
    program = torch.export.export(graph, (picture,), dynamic_shapes=dimensions(graph), strict=False)
    if form == "torch_export":
        # Guesses about how many boxes there are (two at least), which nothing depends on.
        for node in list(program.graph.nodes):
            if node.target is torch.ops.aten._assert_scalar.default:
                program.graph.erase_node(node)
        program.graph.eliminate_dead_code()
        torch.export.save(program, path, extra_files={"visiontune.json": text})
        return
    names = list(graph(picture))
    made: Any = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=["picture"], output_names=names, verbose=False
    )
    made.model.metadata_props["visiontune"] = text
    made.save(path, external_data=False)


def open_exported(run: RunDirectory, backend: str, which: str = "best") -> Exported:
    """
    Args:
        backend: onnx or torch_export, the file that `export` left in the run, or the path of such a file.
        which: the checkpoint that it has to be of, see `RunDirectory.checkpoint`.

    Raises:
        UserError: no such file, or one of other weights.
    """
    path = run.exports / NAMES[backend] if backend in NAMES else Path(backend).expanduser()
    form = "torch_export" if path.suffix == ".pt2" else "onnx"
    if not path.is_file():
        raise UserError(f"{path} is not there: make it with visiontune export run={run.path} format={form}")
    exported = OPEN[form](path)
    if exported.metadata.get("checkpoint") != run.digest(which):
        raise UserError(
            f"{path} was made of other weights than {run.checkpoint(which)} has: make it anew with visiontune export "
            f"run={run.path} format={form} checkpoint={which}"
        )
    return exported


def library(name: str) -> Any:
    """
    Raises:
        UserError: it is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f"format=onnx needs {name}: pip install 'visiontune[export]'") from error
