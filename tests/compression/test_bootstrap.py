"""Metrics of a bootstrap sample equal the metrics of a split with these images."""

import math
from collections.abc import Callable

import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from running import SMALL, mostly_slow
from torch import Tensor

from visiontune.compression.bootstrap import BootstrapMetrics, MetricStates
from visiontune.models.finetuner import FineTuner
from visiontune.training.build import build_data, build_finetuner
from visiontune.training.evaluation import evaluate

SCENES = ["data=digit_scenes", "data.scenes=40", "data.image_size=32", "data.labelled=0.8"]
ACCURACY = "classification/accuracy"
BASE = [override for override in SMALL if not override.startswith("data.image_size")]


@pytest.mark.parametrize(
    "task",
    mostly_slow(
        ["classification", "multilabel", "regression", "segmentation", "dense", "detection", "instances"],
        "classification",
        "segmentation",
    ),
)
def test_every_image_once_is_the_split(
    task: str, config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = [f"heads.{task}.score_threshold=0.005", f"heads.{task}.channels=64"]
    cfg = config(*SCENES, f"heads={task}", *(more if task in ("detection", "instances") else []), base=BASE)
    data = build_data(cfg)
    model, _ = build_finetuner(cfg, data.schema, 1)
    head = model.heads[task]
    monkeypatch.setattr(type(head), "bootstrap_samples", 10)
    states = MetricStates()
    result = evaluate(model, data, "train", "cpu", callbacks=[states])  # a fifth of the images has no label
    bootstrap = states.bootstrap_metrics(model)
    for name, value in bootstrap.values.items():
        assert value == pytest.approx(result.metrics[f"train/{name}"], rel=1e-5, abs=1e-7, nan_ok=True), name
    assert f"{task}/{head.monitor}" in bootstrap.values and f"{task}/loss" in bootstrap.values
    estimate = bootstrap.estimate(f"{task}/loss")
    assert estimate.low < estimate.value < estimate.high
    assert len(bootstrap.samples[f"{task}/loss"]) == 10
    states.states = {task: [None] * len(states.states[task])}  # a sample without any label
    nothing = states.bootstrap_metrics(model).values
    assert nothing.keys() == bootstrap.values.keys() and math.isnan(nothing[f"{task}/{head.monitor}"])
    assert bool(bootstrap.classes) == (task not in ("regression", "dense"))
    for name, value in bootstrap.classes.items():
        label = name.removeprefix(f"{task}: ")
        logged = [v for key, v in result.metrics.items() if key.endswith(("/ap/" + label, "/iou/" + label))]
        assert task == "classification" or value == pytest.approx(logged[0], nan_ok=True)


@pytest.mark.slow
def test_the_interval_of_an_accuracy(config: Callable[..., DictConfig]) -> None:
    """It is the binomial interval; the difference of two models on the same images has a narrower one."""
    cfg = config()
    data = build_data(cfg)
    model, _ = build_finetuner(cfg, data.schema, 1)
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (200,), generator=rng)
    good = torch.where(torch.rand(200, generator=rng) < 0.8, labels, (labels + 1) % 10)
    worse = torch.where(torch.arange(200) < 190, good, (labels + 2) % 10)
    first, second = (simulate_predictions(model, classes, labels) for classes in (good, worse))
    accuracy, change = first.estimate(ACCURACY), second.change(first, ACCURACY)
    p, drop = float((good == labels).float().mean()), float((good == labels)[190:].sum()) / 200
    assert accuracy.value == pytest.approx(p) and change.value == pytest.approx(-drop)
    deviation = math.sqrt(p * (1 - p) / 200)
    assert np.std(first.samples[ACCURACY]) == pytest.approx(deviation, rel=0.15)
    assert (accuracy.low, accuracy.high) == pytest.approx((p - 1.96 * deviation, p + 1.96 * deviation), abs=0.015)
    assert change.low < -drop < change.high < 0
    assert change.high - change.low < 0.75 * (accuracy.high - accuracy.low)
    recalls = [float((good == labels)[labels == i].float().mean()) for i in range(10)]
    assert list(first.classes.values()) == pytest.approx(recalls)


def simulate_predictions(model: FineTuner, classes: Tensor, labels: Tensor) -> BootstrapMetrics:
    """Bootstrap metrics as if the model had predicted `classes`."""
    states = MetricStates()
    scores = torch.eye(10)[classes] * 0.8 + 0.02
    outputs = {
        "predictions": {"classification": [{"scores": row} for row in scores]},
        "losses": {"classification": -scores.gather(1, labels[:, None])[:, 0].log()},
    }
    truth = {"classification": labels.tolist()}
    states.on_test_batch_end(L.Trainer(logger=False), model, outputs, {"truth": truth, "targets": truth}, 0)
    return states.bootstrap_metrics(model)


@pytest.mark.slow
def test_several_tasks_have_a_score(config: Callable[..., DictConfig]) -> None:
    cfg = config(*SCENES, "heads=multitask", "heads.detection.channels=64", base=BASE)
    data = build_data(cfg)
    model, _ = build_finetuner(cfg, data.schema, 1)
    states = MetricStates()
    result = evaluate(model, data, "val", "cpu", callbacks=[states])
    assert states.bootstrap_metrics(model).values["score"] == pytest.approx(result.metrics["val/score"], abs=1e-6)
