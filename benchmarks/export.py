"""Is an exported file the model? Every head on four families, for docs/benchmarks.md.

python -m benchmarks.export [TASK ...]

Each network trains for a few epochs on generated scenes (EfficientNet-Lite0 from ImageNet weights, the others from
random ones), is exported to ONNX and torch.export, and compared with the run on the images of the test split: raw
outputs, predictions, and all metrics that `evaluate` prints.
"""

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.document import machine, markdown, write_block
from visiontune import cli
from visiontune.deployment.evaluation import evaluate_run
from visiontune.deployment.files import open_exported
from visiontune.deployment.verification import match_boxes
from visiontune.runs.directory import RunDirectory
from visiontune.training.build import build_data
from visiontune.training.load import load_model

HEADS = ("classification", "multilabel", "regression", "segmentation", "dense", "detection", "instances")
FAMILIES = ("resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224")
IMAGES = 100


@dataclass
class Agreement:
    """Of one file with its run: largest differences, and the share of images that are predicted alike."""

    raw: float = 0.0
    numbers: float = 0.0
    boxes: float = 0.0
    alike: int = 0
    images: int = 0
    metrics: float = 0.0


def compared(run: RunDirectory, backend: str) -> Agreement:
    cfg = run.read_config()
    data = build_data(cfg)
    data.assign_as(run.splits)
    model, _ = load_model(run, cfg, plain=True)
    model.eval()
    file, found = open_exported(run, backend), Agreement()
    for batch in map(data.to_network, data.eval_loader("test", original_images=True)):
        with torch.no_grad():
            own, theirs = model.outputs(batch), file.outputs(batch["original_image"], model.heads)
        for task, (raw, predictions) in own.items():
            raws, others = theirs[task]
            for name, value in raw.items():
                if isinstance(value, Tensor) and name not in model.heads[task].discrete_outputs:
                    found.raw = max(found.raw, float((raws[name] - value).abs().max()))
            for mine, other in zip(predictions, others, strict=True):
                found.images += 1
                found.alike += alike(mine, other, found)
    metrics = [evaluate_run(run, cfg, model, data, "test", one).metrics for one in (None, backend)]
    # A two-stage detector's loss is of proposals drawn at random: not a number of the network alone.
    names = [name for name in metrics[0] if metrics[0][name] == metrics[0][name] and not name.endswith("loss")]
    found.metrics = max(abs(metrics[0][name] - metrics[1][name]) for name in names)
    return found


def alike(mine: dict[str, Tensor], other: dict[str, Tensor], found: Agreement) -> bool:
    """Whether all that is chosen (the best class, a pixel's class, which boxes) is the same."""
    if "boxes" in mine:
        rows = match_boxes(mine, other)
        for i, j in rows:
            found.boxes = max(found.boxes, float((mine["boxes"][i] - other["boxes"][j]).abs().max()))
        return len(rows) == len(mine["boxes"]) == len(other["boxes"])
    for name, value in mine.items():
        if value.is_floating_point():
            found.numbers = max(found.numbers, float((value - other[name]).abs().max()))
    same = all(bool((mine[name] == other[name]).all()) for name in mine if not mine[name].is_floating_point())
    best = "scores" not in mine or int(mine["scores"].argmax()) == int(other["scores"].argmax())
    return same and best


def main() -> None:
    rows, asked = [], sys.argv[1:]
    with TemporaryDirectory() as folder:
        for task in asked or HEADS:
            for family in FAMILIES:
                run = trained(task, family, Path(folder) / f"{task}_{family}")
                for backend in ("onnx", "torch_export"):
                    visiontune("export", f"run={run.path}", f"format={backend}", f"images={IMAGES}", "split=test")
                    a = compared(run, backend)
                    rows.append(
                        [task, family, backend, f"{a.alike} of {a.images}"]
                        + [f"{value:.1g}" for value in (a.raw, a.numbers, a.boxes, a.metrics)]
                    )
                    print(*rows[-1], flush=True)
    columns = ["head", "network", "file", "predicted alike", "raw", "scores", "boxes (pixels)", "metrics"]
    if not asked:
        write_block("export", f"{machine()}.\n\n{markdown(columns, rows)}")


def trained(task: str, family: str, path: Path) -> RunDirectory:
    weights = "auto" if family == "tf_efficientnet_lite0" else "null"
    more = [f"heads.{task}.channels=64"] if task in ("detection", "instances") else []
    more += [f"heads.{task}.{key}" for key in ("hidden=256", "proposals=200")] if task == "instances" else []
    epochs = 3 if task in ("detection", "instances") else 1
    visiontune(
        "train", "data=digit_scenes", "data.scenes=1000", "data.limit_train=160", "data.image_size=96",
        "data.batch_size=8", f"heads={task}", f"backbone.name={family}", f"backbone.weights={weights}",
        "strategy=full", "scheduler=one_cycle", f"epochs={epochs}", "logger=none", "test=false", f"run_dir={path}",
        *more,
    )  # fmt: skip
    return RunDirectory.open(path)


def visiontune(*arguments: str) -> None:
    """The command line, in this process and silent."""
    sys.argv = ["visiontune", *arguments]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        cli.main()


if __name__ == "__main__":
    main()
