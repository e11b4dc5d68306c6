"""Write exported files, and run them with onnxruntime or torch."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visiontune.deployment.graph import Graph, dimensions, example_image
from visiontune.errors import UserError, first_line, shell_override
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads.base import Head, Prediction, Raw
from visiontune.models.heads.exportable import Exportable
from visiontune.models.heads.interfaces import require
from visiontune.runs.directory import RunDirectory

NAMES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
OPSET = 18  # the first whose Resize is antialiased


class Exported(ABC):
    """A model file. Call it with images ``(B, C, H, W)`` uint8; see `Graph` for the outputs.

    Attributes:
        metadata: `version`, `checkpoint` (SHA-256 of the exported checkpoint), `image_size`, `resize`, `channels`,
            `orientation`, `grey_range` and `max_pixels` (how the run reads image files), `tasks` (kind and class names)
            and `plain` (raw outputs that are not tensors).
    """

    metadata: dict[str, Any]

    @abstractmethod
    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...

    def outputs(self, images: Sequence[Tensor], heads: Mapping[str, Head]) -> dict[str, tuple[Raw, list[Prediction]]]:
        """By task, the raw outputs of a batch and one prediction per image; the images may differ in size."""
        outputs = [self(image[None]) for image in images]
        results: dict[str, tuple[Raw, list[Prediction]]] = {}
        for task, head in require(heads, Exportable, "export").items():
            raw: Raw = dict(self.metadata["plain"][task])
            for name in [name for name in outputs[0] if name.startswith(f"raw.{task}.")]:
                key, parts = name.removeprefix(f"raw.{task}."), [output[name] for output in outputs]
                raw[key] = parts[0] if key in head.shared else torch.cat(parts)
            predictions = [
                {
                    name.removeprefix(f"{task}."): value[0] if head.graph_batch else value
                    for name, value in output.items()
                    if name.startswith(f"{task}.")
                }
                for output in outputs
            ]
            results[task] = raw, predictions
        return results


def run_through(model: FineTuner, exported: Exported) -> None:
    """Make `model` evaluate and predict with the exported file; batches need the original images.

    Raises:
        UserError: the file has other tasks.
    """
    if missing := [task for task in model.heads if task not in exported.metadata["plain"]]:
        raise UserError(f"the exported file has no task {missing[0]}: make it again with visiontune export")
    model.outputs = lambda batch: exported.outputs(batch["original_image"], model.heads)  # type: ignore[method-assign]


class OnnxFile(Exported):
    """Runs with onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        onnxruntime = library("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.names = [output.name for output in self.session.get_outputs()]
        self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["visiontune"])

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        values = self.session.run(None, {self.input: images.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self.names, values, strict=True)}


class TorchFile(Exported):
    """Runs a `torch.export` program on the CPU."""

    def __init__(self, path: Path) -> None:
        extra_files = {"visiontune.json": ""}
        # The tracer guesses guards on sizes; `verify` tests other sizes.
        self.module = torch.export.load(path, extra_files=extra_files).module(check_guards=False)
        self.metadata = json.loads(extra_files["visiontune.json"])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return self.module(images)


OPEN: dict[str, Callable[[Path], Exported]] = {"onnx": OnnxFile, "torch_export": TorchFile}


def write(graph: Graph, path: Path, form: str) -> None:
    """Write one file with graph, weights and metadata.

    Raises:
        UserError: a library of the format is missing.
    """
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            library(name)
    text = json.dumps(graph.metadata())
    image = example_image(graph)
    program = torch.export.export(graph, (image,), dynamic_shapes=dimensions(graph), strict=False)
    if form == "torch_export":
        # The tracer guesses that there are at least two boxes; nothing depends on that.
        for node in list(program.graph.nodes):
            if node.target is torch.ops.aten._assert_scalar.default:
                program.graph.erase_node(node)
        program.graph.eliminate_dead_code()
        torch.export.save(program, path, extra_files={"visiontune.json": text})
        return
    names = list(graph(image))
    onnx_program: Any = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=["image"], output_names=names, verbose=False
    )
    onnx_program.model.metadata_props["visiontune"] = text
    onnx_program.save(path, external_data=False)


def open_exported(run: RunDirectory, backend: str, which: str = "best", trust: bool = False) -> Exported:
    """Open an exported file of a run.

    Args:
        backend: onnx or torch_export for the file inside the run, or the path of a file.
        which: the checkpoint that it must have been exported from, see `RunDirectory.checkpoint`.
        trust: `trust=true` of the command line, for a `.pt2` file: torch unpickles it, which can run any code.

    Raises:
        UserError: the file does not exist, cannot be read, needs trust, or has other weights.
    """
    path = run.exports / NAMES[backend] if backend in NAMES else Path(backend).expanduser()
    form = "torch_export" if path.suffix == ".pt2" else "onnx"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: make it with visiontune export {shell_override('run', run.path)} format={form}"
        )
    if form == "torch_export" and not trust:
        raise UserError(
            f"{path} is unpickled when it is opened, which can run any code: write trust=true if you know where it "
            "comes from, or use backend=onnx"
        )
    try:
        exported = OPEN[form](path)
    except UserError:
        raise
    except Exception as error:  # onnxruntime and torch raise many types for a file that is not theirs
        raise UserError(
            f"{path} is not a file of visiontune export ({first_line(error)}): make one with visiontune export "
            f"{shell_override('run', run.path)} format={form}"
        ) from error
    plain = exported.metadata.get("plain") if isinstance(exported.metadata, dict) else None
    if not isinstance(plain, dict) or not all(isinstance(values, dict) for values in plain.values()):
        raise UserError(f"{path} is not a file of visiontune export: its metadata has no tasks")
    if exported.metadata.get("checkpoint") != run.digest(which):
        raise UserError(
            f"{path} was made of other weights than those in {run.checkpoint(which)}: make it again with visiontune "
            f"export {shell_override('run', run.path)} format={form} {shell_override('checkpoint', which)}"
        )
    return exported


def library(name: str) -> Any:
    """Import a library of the extra `export`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f"ONNX files need {name}: pip install 'visiontune[export]'") from error
