"""Losses and metrics from the config: every head takes any module, and says what it expected."""

from typing import Any

import pytest
import torch
from drawn_objects import DETECTION, drawn
from drawn_scenes import CLASSES, scenes, tiny
from omegaconf import OmegaConf
from sklearn.linear_model import Ridge, RidgeCV
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional import cohen_kappa

from visiontune.data import TaskInfo
from visiontune.errors import UserError
from visiontune.models.features import FeatureShape
from visiontune.models.heads import (
    ClassificationHead,
    DenseHead,
    DetectionHead,
    Head,
    MultilabelHead,
    PerClass,
    RegressionHead,
    SegmentationHead,
)
from visiontune.models.heads.extra_metrics import build_extra_metrics, build_metrics
from visiontune.models.heads.ridge import ridge
from visiontune.models.split_metrics import find_monitor
from visiontune.training.load import check_trusted

SHAPE = FeatureShape([8, 8], [4, 8], 8)
KAPPA = {"metric": {"_target_": "torchmetrics.CohenKappa", "task": "multiclass"}, "direction": "max"}


class MeanError(nn.Module):
    """A loss that is a scalar, without `reduction`."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).abs().mean()


def classifier(**options: Any) -> ClassificationHead:
    return ClassificationHead(SHAPE, TaskInfo("classification", CLASSES), **options)


def test_a_loss_module_is_trained_smoothed_and_measured_on_the_truth() -> None:
    logits, targets = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), [0, None, 3, 1, 2]
    rows, labels = [0, 2, 3, 4], torch.tensor([0, 3, 1, 2])
    head = classifier(loss=nn.CrossEntropyLoss(), label_smoothing=0.2)
    smoothed = F.cross_entropy(logits[rows], labels, label_smoothing=0.2)
    torch.testing.assert_close(head.loss({"logits": logits}, targets)["loss"], smoothed)
    losses = head.sample_loss({"logits": logits}, targets)
    torch.testing.assert_close(losses[rows], F.cross_entropy(logits[rows], labels, reduction="none"))
    assert losses.isnan().tolist() == [False, True, False, False, False]
    scalar = classifier(loss=MeanError())  # called with one sample at a time
    expected = (logits[rows] - F.one_hot(labels, 4)).abs()
    torch.testing.assert_close(scalar.sample_loss({"logits": logits}, targets)[rows], expected.mean(1))
    torch.testing.assert_close(scalar.loss({"logits": logits}, targets)["loss"], expected.mean())
    nothing = head.loss({"logits": logits.requires_grad_()}, [None] * 5)["loss"]
    assert nothing.item() == 0 and nothing.requires_grad


@pytest.mark.parametrize(
    ("make", "raw", "module", "name"),
    [
        (MultilabelHead, "logits", nn.BCEWithLogitsLoss, "bce"),
        (RegressionHead, "values", nn.L1Loss, "l1"),
        (DenseHead, "image", nn.MSELoss, "mse"),
        (SegmentationHead, "logits", nn.CrossEntropyLoss, "ce"),
    ],
)
def test_a_module_is_the_loss_of_that_name(make: Any, raw: str, module: Any, name: str) -> None:
    kind = make.__name__.removesuffix("Head").lower()
    targets = scenes(3, side=16)[1][kind]
    if kind in ("multilabel", "regression"):
        targets[1][0] = torch.nan  # an unknown value
    targets[2] = None
    classes = {"multilabel": 3, "regression": 2, "dense": 3, "segmentation": 4}[kind]
    info = TaskInfo(kind, CLASSES[:classes])
    size = (16, 16) if kind in ("dense", "segmentation") else ()
    outputs = {raw: torch.randn(3, classes, *size, generator=torch.Generator().manual_seed(0))}
    builtin, custom = make(SHAPE, info, loss=name), make(SHAPE, info, loss=module())
    torch.testing.assert_close(
        torch.stack([*custom.loss(outputs, targets).values()]), torch.stack([*builtin.loss(outputs, targets).values()])
    )
    torch.testing.assert_close(
        custom.sample_loss(outputs, targets), builtin.sample_loss(outputs, targets), equal_nan=True
    )
    if kind in ("multilabel", "regression"):
        with pytest.raises(UserError, match=r"some values are unknown, and MeanError returned \(\)"):
            make(SHAPE, info, loss=MeanError()).loss(outputs, targets)


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "faster_rcnn"])
def test_the_losses_of_a_detector_are_replaced(detector: str) -> None:
    images, targets = drawn(2)
    backbone = tiny()
    two_stage = detector == "faster_rcnn"
    classification = nn.CrossEntropyLoss() if two_stage else nn.BCEWithLogitsLoss()
    options = {"channels": 64, "convs": 1}
    head = DetectionHead(backbone.shape, DETECTION, detector, **options)  # type: ignore[arg-type]
    custom = DetectionHead(
        backbone.shape, DETECTION, detector, classification_loss=classification, box_loss=nn.L1Loss(), **options
    )  # type: ignore[arg-type]
    custom.load_state_dict(head.state_dict())
    raw = head(backbone(images))
    before, after = [], []
    for model, losses in ((head, before), (custom, after)):
        torch.manual_seed(0)
        losses.append(model.loss(raw, targets))
    assert before[0].keys() == after[0].keys()
    different = {name for name, value in before[0].items() if not torch.allclose(value, after[0][name])}
    # The classification loss of faster_rcnn is the same as torchvision's.
    assert different == ({"loss_box_reg"} if two_stage else {"classification", "bbox_regression"})
    torch.stack([*after[0].values()]).sum().backward()


def test_a_wrong_loss_shows_what_was_expected_and_what_came() -> None:
    class Wrong(nn.Module):
        def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
            return predictions.sum(0)[:3]

    with pytest.raises(
        UserError,
        match=r"loss: expected module\(predictions \(2, 4\) float32, targets \(2, 4\) float32\) to "
        r"return one value per sample \(2,\), one per element, or a scalar; Wrong returned \(3,\)",
    ):
        classifier(loss=Wrong())
    with pytest.raises(UserError, match=r"NLLLoss raised: "):
        classifier(loss=nn.NLLLoss())

    class Silent(nn.Module):
        def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
            raise AssertionError

    with pytest.raises(UserError, match=r"Silent raised: AssertionError; write e.g. a loss of torch.nn"):
        classifier(loss=Silent())
    with pytest.raises(UserError, match=r"^heads.classification.label_smoothing=-0.1: expected a fraction from 0 to 1"):
        classifier(label_smoothing=-0.1)
    with pytest.raises(UserError, match="class_weights is not for a loss module"):
        classifier(loss=nn.CrossEntropyLoss(), class_weights=[1, 1, 1, 1])


def test_an_extra_metric_can_be_the_monitor() -> None:
    head = classifier()
    specificity = {"metric": {"_target_": "torchmetrics.classification.MulticlassSpecificity", "average": "none"}}
    extra = build_extra_metrics({"kappa": KAPPA, "specificity": specificity}, CLASSES, {}, "heads.a.metrics")
    head.add_metrics(extra)
    assert find_monitor({"a": head}, "val/a/kappa") == ("val/a/kappa", "max")
    with pytest.raises(UserError, match="monitor=val/a/specificity cannot decide which epoch is best"):
        find_monitor({"a": head}, "val/a/specificity")
    scores = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    targets = torch.arange(30) % 4
    metrics: Any = build_metrics(head)
    for rows in (slice(0, 7), slice(7, 7), slice(7, 30)):
        metrics.update([{"scores": row} for row in scores[rows]], targets[rows].tolist())
    computed = metrics.compute()
    expected = cohen_kappa(scores, targets, "multiclass", num_classes=4)
    assert float(computed["kappa"]) == pytest.approx(float(expected))
    assert isinstance(computed["specificity"], PerClass) and computed["specificity"].classes == tuple(CLASSES)
    assert "accuracy" in computed and extra["kappa"].metric._update_count == 0


def test_an_extra_metric_that_no_sample_updates_is_nan() -> None:
    """No sample has both values, so R2 of the samples with all values has no data, and no error."""
    head = RegressionHead(SHAPE, TaskInfo("regression", ("width", "weight")))
    r2 = {"metric": {"_target_": "torchmetrics.R2Score"}, "direction": "max"}
    head.add_metrics(build_extra_metrics({"r2_complete": r2}, head.names, head.metric_arguments, "heads.a.metrics"))
    metrics: Any = build_metrics(head)
    targets = [torch.tensor([1.0, torch.nan]), torch.tensor([torch.nan, 2.0])]
    metrics.update([{"values": torch.ones(2)}, {"values": torch.ones(2)}], targets)
    computed = metrics.compute()
    assert computed["r2_complete"].isnan() and computed["mae"].item() == pytest.approx(0.5)
    metrics.reset()
    metrics.update([{"values": torch.tensor([float(i), -1.0])} for i in range(3)], list(torch.arange(6.0).view(3, 2)))
    assert metrics.compute()["r2_complete"].isfinite()


def test_metrics_that_are_not_fine_are_refused() -> None:
    def build(entry: Any) -> Any:
        return build_extra_metrics({"kappa": entry}, CLASSES, {}, "heads.a.metrics")

    for entry, message in (
        (
            KAPPA["metric"],
            r"heads.a.metrics.kappa=.*: write a metric and its direction, such as heads.a.metrics.kappa=",
        ),
        (KAPPA | {"direction": "up"}, r"heads.a.metrics.kappa.direction=up: write max or min"),
        ({"metric": {"_target_": "torch.nn.Identity"}}, "expected a torchmetrics.Metric, .*got the class Identity"),
        ({"metric": {"_target_": "torchmetrics.CohenKappa"}}, "task"),
    ):
        with pytest.raises(UserError, match=message):
            build(entry)
    with pytest.raises(UserError, match=r"metrics.accuracy: this head already computes accuracy; write another name"):
        classifier().add_metrics({"accuracy": build(KAPPA)["kappa"]})


def test_classes_of_the_libraries_are_trusted() -> None:
    config = {"heads": {"a": {"loss": {"_target_": "torch.nn.L1Loss"}, "metrics": {"kappa": KAPPA}}}}
    check_trusted(OmegaConf.create(config))
    config["heads"]["a"]["loss"]["_target_"] = "torch.utils.collect_env.run"
    with pytest.raises(UserError, match=r"heads.a.loss._target_=torch.utils.collect_env.run"):
        check_trusted(OmegaConf.create(config))


def test_a_head_is_abstract_and_has_twelve_methods_at_most() -> None:
    public = [name for name, value in vars(Head).items() if callable(value) and not name.startswith("_")]
    assert Head.__abstractmethods__ == {"forward", "loss", "sample_loss", "decode", "metrics"}
    assert len(public) <= 12
    with pytest.raises(TypeError, match="abstract"):
        Head()  # type: ignore[abstract]


def test_scikit_learns_ridge_refuses_unknown_values_which_ours_leaves_out() -> None:
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40.0).view(20, 2)
    y[0, 0] = torch.nan
    for model in (Ridge(), RidgeCV()):
        with pytest.raises(ValueError, match="NaN"):
            model.fit(x.numpy(), y.numpy())
    assert bool(ridge(x, y, x, y.nan_to_num(0.0)).weight.isfinite().all())
