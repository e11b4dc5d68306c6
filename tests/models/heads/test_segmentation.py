"""The segmentation head against scikit-learn, PyTorch's own losses and plain NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from drawn_scenes import CLASSES, overfit, scenes, tiny
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score
from torch import Tensor, nn
from torch.nn import functional as F

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.data.targets import IGNORE, LabelMap
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import SegmentationHead
from visiontune.models.heads.class_rows import ClassRows
from visiontune.models.heads.label_maps import argmax_map
from visiontune.models.heads.metrics import name_scalars

SHAPE = FeatureShape([8, 16], [4, 8], 16)


def head(classes: int = 4, **options: Any) -> SegmentationHead:
    torch.manual_seed(0)
    names = [*CLASSES, *(f"class {i}" for i in range(4, classes))][:classes]
    return SegmentationHead(SHAPE, TaskInfo("segmentation", names), **{"channels": 8} | options)


def logits(count: int = 3, classes: int = 4, size: tuple[int, int] = (12, 10), seed: int = 0) -> Tensor:
    return 2 * torch.randn(count, classes, *size, generator=torch.Generator().manual_seed(seed))


def truths(count: int = 3, classes: int = 4, size: tuple[int, int] = (12, 10), unknown: float = 0.2) -> list[LabelMap]:
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (count, *size), generator=draw, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=draw) < unknown] = IGNORE
    return [LabelMap(part) for part in labels]


# ---- metrics


def test_metrics_are_of_the_whole_split_and_equal_scikit_learns() -> None:
    sizes = [(9, 11), (20, 3), (7, 7), (30, 30)]  # a mean over images or batches would be another number
    truth = [truths(1, 5, size)[0] for size in sizes]
    maps = [
        torch.where(logits(1, 1, s)[0, 0] > 0, t % 5, logits(1, 5, s, 7)[0].argmax(0))
        for s, t in zip(sizes, truth, strict=True)
    ]
    for labels in (*maps, *truth):
        labels[labels == 3] = 2  # a class that never occurs
    metrics = head(5).metrics()
    for part in (slice(0, 1), slice(1, 1), slice(1, 4)):
        metrics.update([{"map": m.to(torch.uint8)} for m in maps[part]], truth[part])
    values = metrics.compute()
    found = {**values, **name_scalars(values)}
    flat = torch.cat([t.flatten() for t in truth]).numpy()
    guess = torch.cat([m.flatten() for m in maps]).numpy()[flat != IGNORE]
    flat = flat[flat != IGNORE]
    assert float(found["miou"]) == pytest.approx(jaccard_score(flat, guess, average="macro"), abs=1e-6)
    assert float(found["dice"]) == pytest.approx(f1_score(flat, guess, average="macro"), abs=1e-6)
    assert float(found["pixel_accuracy"]) == pytest.approx(accuracy_score(flat, guess), abs=1e-6)
    each = jaccard_score(flat, guess, average=None, labels=[0, 1, 2, 4])
    names = ["background", "red", "green", "class 4"]
    np.testing.assert_allclose([float(found[f"iou/{name}"]) for name in names], each, atol=1e-6)
    assert found["iou/blue"].isnan()
    assert found["confusion_matrix"].tolist() == confusion_matrix(flat, guess, labels=range(5)).tolist()
    scalars = {name for name in name_scalars(values) if "/" not in name}
    assert scalars | {"loss"} == set(SegmentationHead.directions) and SegmentationHead.monitor in scalars


def test_perfect_predictions_are_perfect_and_a_reset_forgets() -> None:
    truth, metrics = truths(unknown=0), head().metrics()
    metrics.update([{"map": (labels + 1) % 4} for labels in truth], truth)
    metrics.reset()
    metrics.update([{"map": labels.clone()} for labels in truth], truth)
    values = metrics.compute()
    found = {**values, **name_scalars(values)}
    assert [float(found[name]) for name in ("miou", "dice", "pixel_accuracy", "iou/red")] == [1.0] * 4


# ---- losses


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_each_image_is_pytorchs(weights: list[float] | None, smoothing: float) -> None:
    raw, truth = {"logits": logits()}, truths()
    weight = None if weights is None else torch.tensor(weights)
    expected = [
        F.cross_entropy(x[None], t[None].long(), weight, ignore_index=IGNORE, label_smoothing=smoothing)
        for x, t in zip(raw["logits"], truth, strict=True)
    ]
    model = head(loss="ce", class_weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(model.sample_loss(raw, truth), torch.stack(expected))
    assert float(model.loss(raw, truth)["ce"]) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)


def test_focal_loss() -> None:
    raw, truth = {"logits": logits(1)}, truths(1)
    known = truth[0] != IGNORE
    plain = F.cross_entropy(raw["logits"], truth[0][None].long(), ignore_index=IGNORE, reduction="none")[0][known]
    expected = ((1 - (-plain).exp()) ** 3 * plain).mean()  # Lin et al. 2017, equation 4
    assert float(head(loss="focal", gamma=3.0).loss(raw, truth)["focal"]) == pytest.approx(float(expected), rel=1e-5)
    zero, entropy = head(loss="focal", gamma=0.0), head(loss="ce", gamma=3.0)
    torch.testing.assert_close(zero.sample_loss(raw, truth), entropy.sample_loss(raw, truth))


def test_dice_loss_is_one_minus_the_mean_over_the_classes_there_are() -> None:
    raw, truth = {"logits": logits(2)}, truths(2)
    truth[1][truth[1] == 2] = 0
    expected = []
    for x, t in zip(raw["logits"].softmax(1).numpy(), truth, strict=True):
        known = (t != IGNORE).numpy()
        each = []
        for c in sorted({*t.unique().tolist()} - {IGNORE}):
            p, y = x[c][known], (t == c).numpy()[known]
            each.append(1 - 2 * (p * y).sum() / (p.sum() + y.sum()))
        expected.append(np.mean(each))
    np.testing.assert_allclose(head(loss="dice").sample_loss(raw, truth), expected, rtol=1e-5)
    right = F.one_hot(truths(2, unknown=0)[0].long(), 4).permute(2, 0, 1)[None] * 50.0
    assert float(head(loss="dice").loss({"logits": right}, truths(1, unknown=0))["dice"]) < 1e-6


@pytest.mark.parametrize("loss", ["ce+dice", "focal + dice", "ce"])
def test_the_loss_is_the_mean_of_the_sample_losses(loss: str) -> None:
    model, raw, truth = head(loss=loss), {"logits": logits(4)}, truths(4)
    some: list[Any] = [truth[0], None, truth[2], truth[3]]
    parts, each = model.loss(raw, some), model.sample_loss(raw, some)
    assert list(parts) == [part.strip() for part in loss.split("+")]
    assert each.isnan().tolist() == [False, True, False, False]
    assert float(sum(parts.values())) == pytest.approx(float(each.nanmean()), rel=1e-5)
    torch.testing.assert_close(each[2], model.sample_loss(raw, truth)[2])


@pytest.mark.parametrize("targets", [[None, None], [LabelMap(torch.full((12, 10), IGNORE, dtype=torch.uint8)), None]])
def test_nothing_known_is_a_zero_on_the_graph(targets: list[Any]) -> None:
    given = logits(2).requires_grad_()
    for value in head(loss="ce+dice+focal", class_weights=[1, 2, 3, 4]).loss({"logits": given}, targets).values():
        assert value.item() == 0.0
        value.backward(retain_graph=True)
    assert given.grad is not None and bool((given.grad == 0).all())


# ---- auxiliary classifier


def random_features() -> Features:
    draw = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, channels, 12 // i, 10 // i, generator=draw) for channels, i in ((8, 1), (16, 2))]
    return Features(maps, lambda: torch.zeros(3, 16), (12, 10))


@pytest.mark.parametrize("loss", ["ce+dice", nn.CrossEntropyLoss()])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_auxiliary_loss_is_the_loss_of_a_second_classifier(loss: Any, norm: str) -> None:
    model, features, truth = head(loss=loss, auxiliary=0.25, norm=norm, dropout=0.0), random_features(), truths()
    assert model.auxiliary is not None
    model.eval()
    raw = model(features)
    assert raw.keys() == {"logits", "auxiliary_map"} and raw["auxiliary_map"] is features.maps[0]
    second = {"logits": F.interpolate(model.auxiliary(features.maps[0]), (12, 10), mode="bilinear")}
    plain = head(loss=loss, dropout=0.0)
    parts = model.loss(raw, truth)
    expected = plain.loss(raw, truth) | {"auxiliary": 0.25 * sum(plain.loss(second, truth).values())}
    assert parts.keys() == expected.keys()
    for name, value in parts.items():
        torch.testing.assert_close(value, expected[name])
    # Evaluation does not use it.
    torch.testing.assert_close(model.sample_loss(raw, truth), plain.sample_loss(raw, truth))
    assert model.train()(features).keys() == raw.keys()
    nothing = model.loss(model(features), [None, None, None])
    total = torch.stack(list(nothing.values())).sum()
    total.backward()
    assert total.item() == 0.0
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.any()] == []


def test_class_rows_are_those_of_the_last_layers() -> None:
    for decoder in ("fpn", "deeplabv3", "fcn", "lraspp"):
        model = head(decoder=decoder, auxiliary=0.5)
        rows, tensors = model.class_rows(), model.state_dict()
        assert set(rows.values()) == {ClassRows()}
        assert {name for name in rows if "auxiliary" in name} == {"auxiliary.4.1.weight", "auxiliary.4.1.bias"}
        assert [len(tensors[name]) for name in rows] == [4] * len(rows)
        larger = head(5, decoder=decoder, auxiliary=0.5).state_dict()
        assert {name for name, value in tensors.items() if value.shape != larger[name].shape} == rows.keys()


# ---- decoding


def test_maps_are_of_the_image_that_was_put_in() -> None:
    raw = {"logits": logits(3)}
    frames = [Frame.whole(12, 10), Frame((24, 40), (3, 0, 6, 10)), Frame((7, 5), (-2, -3, 16, 16))]
    found = head().decode(raw, frames)
    for x, frame, prediction in zip(raw["logits"], frames, found, strict=True):
        assert prediction["map"].shape == frame.size and prediction["map"].dtype == torch.uint8
        assert torch.equal(prediction["map"].long(), frame.pixels(x).argmax(0))
    assert torch.equal(found[0]["map"].long(), raw["logits"][0].argmax(0))
    assert float(found[0]["confidence"]) == pytest.approx(float(raw["logits"][0].softmax(0).amax(0).mean()))
    inside = raw["logits"][1][:, 3:9].softmax(0).amax(0).mean()  # the rest of the input is padding
    assert float(found[1]["confidence"]) == pytest.approx(float(inside))


@pytest.mark.parametrize("chunk", [1, 600, 1000, 2**26])
def test_some_classes_at_a_time_give_the_same_map(chunk: int) -> None:
    values = logits(1, 11, (15, 9))[0]
    values[4] = values[2]  # of equals the first one wins
    frame = Frame((20, 15), (0, 0, 15, 9))
    assert torch.equal(argmax_map(values, frame, chunk).long(), frame.pixels(values).argmax(0))


def test_training_and_evaluation_decode_alike() -> None:
    model, raw = head(dropout=0.5), {"logits": logits()}
    frames = [Frame.whole(12, 10)] * 3
    for one, other in zip(model.train().decode(raw, frames), model.eval().decode(raw, frames), strict=True):
        assert torch.equal(one["map"], other["map"])


def test_logits_are_as_large_as_the_input() -> None:
    images, _ = scenes(2, side=50)
    backbone = tiny().eval()
    model = SegmentationHead(backbone.shape, TaskInfo("segmentation", CLASSES), channels=8)
    assert model(backbone(images))["logits"].shape == (2, 4, 50, 50)


@pytest.mark.parametrize(("decoder", "steps", "channels"), [("fpn", 50, 48), ("unet", 50, 64)])
@pytest.mark.slow
def test_learns_eight_images_by_heart(decoder: str, steps: int, channels: int) -> None:
    backbone = tiny()
    model = SegmentationHead(
        backbone.shape, TaskInfo("segmentation", CLASSES), decoder=decoder, channels=channels, dropout=0.0
    )
    found = overfit(model, backbone, "segmentation", steps)
    assert found["miou"] >= 0.95
    assert min(found[f"iou/{name}"] for name in CLASSES) >= 0.9


# ---- words and images


def test_predictions_in_words() -> None:
    model = head()
    labels = torch.zeros(10, 10, dtype=torch.uint8)
    labels[:4], labels[4, :6], labels[5, :5] = 2, 3, IGNORE
    assert model.describe_target(LabelMap(labels)) == "background 52%, green 42%, blue 6%"
    assert model.describe_target(None) == "" and model.describe_target(torch.full((2, 2), IGNORE)) == ""
    found = model.describe({"map": labels, "confidence": torch.tensor(0.75)})
    assert found == ("background 52%, green 42%, blue 6%", 0.75)
    many = head(8).describe_target(torch.arange(8, dtype=torch.uint8).repeat_interleave(torch.arange(1, 9)))
    assert many == "class 7 22%, class 6 19%, class 5 17%, class 4 14%, blue 11%"


def test_drawings() -> None:
    model = head()
    image = torch.full((3, 40, 60), 128, dtype=torch.uint8)
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:20] = 1
    prediction = {"map": labels, "confidence": torch.tensor(1.0)}
    assert torch.equal(model.images(prediction)["mask"], labels[None])
    both, one = model.draw(image, prediction, LabelMap(labels)), model.draw(image, prediction)
    assert both.dtype == torch.uint8 and both.shape[0] == 3 and both.shape[2] > 2 * one.shape[2] - 10
    assert torch.equal(both[:, 30:60, :100], both[:, 30:60, -one.shape[2] :][:, :, :100])  # truth is as predicted
    assert not torch.equal(one[:, 30, 0], one[:, -40, 0])  # classes differ in colour
    assert model.draw(image, None).shape == (3, 160, 240)


def test_figure_of_the_confusion_matrix() -> None:
    figures = head().figures({"confusion_matrix": torch.eye(4).long()})
    assert [tick.get_text() for tick in figures["confusion_matrix"].axes[0].get_yticklabels()] == CLASSES
    assert head(41).figures({"confusion_matrix": torch.eye(41)}) == {}


def test_options_that_make_no_sense() -> None:
    with pytest.raises(
        UserError, match=r"heads.segmentation.loss=hinge: write one of ce, dice, focal, or a module such as"
    ):
        head(loss="ce+hinge")
    with pytest.raises(UserError, match=r"^heads.segmentation.class_weights has 2 numbers for 4 classes; write one"):
        head(class_weights=[1.0, 2.0])
    with pytest.raises(UserError, match="for 2 to 255 classes, the data has 1"):
        head(1)
    with pytest.raises(UserError, match="decoder=psp: write one of"):
        head(decoder="psp")
    for wrong in (-0.5, "much"):
        with pytest.raises(UserError, match=r"heads.segmentation.auxiliary=.*expected a number, 0 or more; write e.g."):
            head(auxiliary=wrong)
    with pytest.raises(
        UserError, match=r"auxiliary=0.5: the backbone has only one map; write heads.segmentation.auxil"
    ):
        SegmentationHead(FeatureShape([8], [4], 8), TaskInfo("segmentation", CLASSES), auxiliary=0.5)
