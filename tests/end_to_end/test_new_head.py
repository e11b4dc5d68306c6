"""A head for a new task is one file and one YAML, outside the package."""

import csv
import json
from pathlib import Path

import pytest
from running import Command

HEAD = '''
"""Predict ordered classes as a number on a scale."""

import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection

from visiontune.models.heads import Describable, Head
from visiontune.models.heads.drawing import caption


class Metrics(nn.Module):
    def __init__(self):
        super().__init__()
        self.distance, self.near = MeanMetric(), MeanMetric()

    def update(self, predictions, targets):
        for prediction, target in zip(predictions, targets, strict=True):
            far = (prediction["value"] - target).abs()
            self.distance.update(far)
            self.near.update((far < 1).float())

    def compute(self):
        return {"distance": self.distance.compute(), "near": self.near.compute()}

    def reset(self):
        self.distance.reset()
        self.near.reset()


class ScaleHead(Head):
    directions = {"distance": "min", "near": "max", "loss": "min"}
    monitor = "near"

    def __init__(self, features, info, scale=1.0):
        super().__init__()
        self.linear, self.classes, self.scale = nn.Linear(features.embedding_dim, 1), info.classes, scale

    def forward(self, features):
        return {"value": self.linear(features.embedding)[:, 0] * self.scale}

    def sample_loss(self, raw, targets):
        return F.smooth_l1_loss(raw["value"], torch.tensor(targets).float(), reduction="none")

    def loss(self, raw, targets):
        return {"loss": self.sample_loss(raw, targets).mean()}

    def decode(self, raw, frames):
        return [{"value": value} for value in raw["value"].float()]

    def metrics(self):
        return Metrics()

    def metric_inputs(self, predictions, targets):
        yield torch.stack([prediction["value"] for prediction in predictions]), torch.tensor(targets).float()


class OrdinalHead(ScaleHead, Describable):
    def describe(self, prediction):
        return f"{float(prediction['value']):.2f}", float("nan")

    def describe_target(self, target):
        return self.classes[target]

    def draw(self, image, prediction, target=None):
        return caption(image, [self.describe(prediction)[0]])
'''
YAML = """
classification:
  _target_: ordinal.OrdinalHead
  scale: 2.0
  metrics:
    rank: {metric: {_target_: torchmetrics.SpearmanCorrCoef}, direction: max}
"""


def test_one_file_and_one_yaml_train_evaluate_and_predict(
    command: Command, tiny: list[str], tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ordinal.py").write_text(HEAD)
    (tmp_path / "configs" / "heads").mkdir(parents=True)
    (tmp_path / "configs" / "heads" / "ordinal.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["heads=ordinal", "augment=none", "epochs=3", "probe=false", "monitor=val/classification/rank", *tiny]
    arguments = ["--config-dir", str(tmp_path / "configs"), *options]
    note = "note: classification: ScaleHead is not Describable"
    assert note in command("plan", *arguments, "heads.classification._target_=ordinal.ScaleHead").out
    run = command("train", *arguments).run
    assert "Describable" not in run.log.read_text()
    metrics = json.loads(run.metrics.read_text())
    assert {f"val/classification/{name}" for name in ("distance", "near", "rank", "loss")} <= set(metrics)
    with run.history.open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]
    assert run.read_status()["objective"]["name"] == "val/classification/rank"
    assert command("evaluate", f"run={run.path}").code == 2  # a foreign class needs trust=true
    again = command("evaluate", f"run={run.path}", "split=val", "trust=true", f"output={tmp_path / 'again'}")
    assert again.code == 0
    evaluated = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert evaluated["val/classification/distance"] == pytest.approx(metrics["val/classification/distance"], abs=1e-6)
    export = command("export", f"run={run.path}", "format=torch_export", "trust=true")
    assert export.code == 2 and "OrdinalHead, is not Exportable; derive it from" in export.err
    command("predict", f"run={run.path}", f"input={tiles}", "trust=true", f"output={tmp_path / 'predicted'}")
    with (tmp_path / "predicted" / "predictions.csv").open(newline="") as file:
        assert len([float(row["prediction"]) for row in csv.DictReader(file)]) == 60
