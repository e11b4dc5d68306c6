"""Compare exported files with their models: every head on four families of networks. For docs/benchmarks.md.

python -m benchmarks.export [TASK ...]

Each network trains for a few epochs on generated scenes (EfficientNet-Lite0 from ImageNet weights, the others from
random weights). It is exported to ONNX and torch.export, and compared with the run on the images of the test split: raw
outputs, predictions, and all metrics that `evaluate` prints.
"""

import math
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
    """How well a file agrees with its run.

    Attributes:
        raw, numbers, boxes, metrics: largest absolute differences.
        same: number of images with the same decisions.
    """

    raw: float = 0.0
    numbers: float = 0.0
    boxes: float = 0.0
    same: int = 0
    images: int = 0
    metrics: float = 0.0


def compare(run: RunDirectory, backend: str) -> Agreement:
    """Compare the exported file of a run with its checkpoint on the test split."""
    cfg = run.read_config()
    data = build_data(cfg)
    data.assign_as(run.splits)
    model, _ = load_model(run, cfg, plain=True)
    model.eval()
    file, agreement = open_exported(run, backend), Agreement()
    for batch in map(data.to_network, data.eval_loader("test", original_images=True)):
        with torch.no_grad():
            expected, actual = model.outputs(batch), file.outputs(batch["original_image"], model.heads)
        for task, (raw, predictions) in expected.items():
            file_raw, file_predictions = actual[task]
            for name, value in raw.items():
                if isinstance(value, Tensor) and name not in model.heads[task].discrete_outputs:
                    agreement.raw = max(agreement.raw, float((file_raw[name] - value).abs().max()))
            for prediction, file_prediction in zip(predictions, file_predictions, strict=True):
                agreement.images += 1
                agreement.same += compare_predictions(prediction, file_prediction, agreement)
    eager, exported = (evaluate_run(run, cfg, model, data, "test", name).metrics for name in (None, backend))
    # The loss of a two-stage detector depends on random proposals.
    names = [name for name in eager if not math.isnan(eager[name]) and not name.endswith("loss")]
    agreement.metrics = max(abs(eager[name] - exported[name]) for name in names)
    return agreement


def compare_predictions(expected: dict[str, Tensor], actual: dict[str, Tensor], agreement: Agreement) -> bool:
    """Whether all decisions (the best class, a pixel's class, the boxes) are the same; records differences."""
    if "boxes" in expected:
        pairs = match_boxes(expected, actual)
        for i, j in pairs:
            difference = float((expected["boxes"][i] - actual["boxes"][j]).abs().max())
            agreement.boxes = max(agreement.boxes, difference)
        return len(pairs) == len(expected["boxes"]) == len(actual["boxes"])
    for name, value in expected.items():
        if value.is_floating_point():
            agreement.numbers = max(agreement.numbers, float((value - actual[name]).abs().max()))
    discrete = [name for name, value in expected.items() if not value.is_floating_point()]
    same = all(bool((expected[name] == actual[name]).all()) for name in discrete)
    return same and ("scores" not in expected or int(expected["scores"].argmax()) == int(actual["scores"].argmax()))


def main() -> None:
    rows, tasks = [], sys.argv[1:]
    with TemporaryDirectory() as folder:
        for task in tasks or HEADS:
            for family in FAMILIES:
                run = train(task, family, Path(folder) / f"{task}_{family}")
                for backend in ("onnx", "torch_export"):
                    visiontune("export", f"run={run.path}", f"format={backend}", f"images={IMAGES}", "split=test")
                    result = compare(run, backend)
                    rows.append(
                        [task, family, backend, f"{result.same} of {result.images}"]
                        + [f"{value:.1g}" for value in (result.raw, result.numbers, result.boxes, result.metrics)]
                    )
                    print(*rows[-1], flush=True)
    columns = ["head", "network", "file", "predicted alike", "raw", "scores", "boxes (pixels)", "metrics"]
    if not tasks:
        write_block("export", f"{machine()}.\n\n{markdown(columns, rows)}")


def train(task: str, family: str, path: Path) -> RunDirectory:
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
    """Run a command in this process, without output."""
    sys.argv = ["visiontune", *arguments]
    with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
        cli.main()


if __name__ == "__main__":
    main()
