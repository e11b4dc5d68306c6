"""The classification head against scikit-learn and PyTorch's own losses."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import ClassificationHead
from visiontune.models.heads.drawing import BAD, GOOD

CLASSES = ["ant", "bee", "cat", "dog", "eel"]


def head(classes: int = 5, dim: int = 6, **options: Any) -> ClassificationHead:
    torch.manual_seed(0)
    return ClassificationHead(FeatureShape([], [], dim), TaskInfo("classification", CLASSES[:classes]), **options)


def logits(count: int, classes: int = 5, seed: int = 0) -> Tensor:
    return 2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def labels(count: int, classes: int = 5, seed: int = 1) -> list[int]:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def measured(scores: Tensor, targets: list[int], sizes: list[int]) -> dict[str, Tensor]:
    """The metrics after batches of these sizes."""
    metrics = head(scores.shape[1]).metrics()
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        metrics.update([{"scores": row} for row in scores[part]], targets[part])
        start += size
    assert start == len(targets)
    return metrics.compute()


def test_metrics_are_of_the_whole_split_and_equal_scikit_learns() -> None:
    targets = labels(101)
    # Right more often than not, and unequal batches, so that a mean over batches would be another number.
    scores = (logits(101) + 3 * F.one_hot(torch.tensor(targets), 5)).softmax(1)
    found = measured(scores, targets, [40, 1, 0, 25, 3, 32])
    guess = scores.argmax(1).tolist()
    macro: dict[str, Any] = {"average": "macro"}
    expected = {
        "accuracy": accuracy_score(targets, guess),
        "f1": f1_score(targets, guess, **macro),
        "precision": precision_score(targets, guess, **macro),
        "recall": recall_score(targets, guess, **macro),
        "auroc": roc_auc_score(targets, scores.double() / scores.double().sum(1, True), multi_class="ovr", **macro),
    }
    assert 0.5 < expected["accuracy"] < 0.95
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-6), name
    assert found["confusion_matrix"].tolist() == confusion_matrix(targets, guess).tolist()
    assert set(ClassificationHead.directions) == {*expected, "calibration_error", "loss"}
    assert set(found) == {*expected, "calibration_error", "confusion_matrix"}


def test_macro_averages_leave_out_classes_that_never_occur() -> None:
    targets = [label if label < 3 else 0 for label in labels(60)]
    scores = logits(60).index_fill(1, torch.tensor([3, 4]), -20.0).softmax(1)
    found = measured(scores, targets, [50, 10])
    guess = scores.argmax(1).tolist()
    for name, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert float(found[name]) == pytest.approx(function(targets, guess, average="macro"), abs=1e-6), name
    one_against_rest = [roc_auc_score([t == c for t in targets], scores[:, c]) for c in range(3)]
    assert float(found["auroc"]) == pytest.approx(np.mean(one_against_rest), abs=1e-6)


def test_calibration_error_is_the_gap_of_fifteen_bins() -> None:
    targets = labels(200)
    scores = logits(200).softmax(1)
    confidence, guess = (part.numpy() for part in scores.max(1))
    right = guess == np.array(targets)
    bins = np.clip((confidence * 15).astype(int), 0, 14)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    found = measured(scores, targets, [150, 50])
    assert float(found["calibration_error"]) == pytest.approx(sum(gaps), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 0.0]])
def test_loss_is_cross_entropy(smoothing: float, weights: list[float] | None) -> None:
    raw, targets = {"logits": logits(32)}, labels(32)
    weight = None if weights is None else torch.tensor(weights)
    ours = head(label_smoothing=smoothing, class_weights=weights).loss(raw, targets)
    theirs = F.cross_entropy(raw["logits"], torch.tensor(targets), weight=weight, label_smoothing=smoothing)
    assert list(ours) == ["loss"]
    assert float(ours["loss"]) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_mixed_targets_is_cross_entropy(smoothing: float) -> None:
    raw, soft = {"logits": logits(16)}, logits(16, seed=5).softmax(1)
    ours = head(label_smoothing=smoothing).loss(raw, list(soft))["loss"]
    assert float(ours) == pytest.approx(
        float(F.cross_entropy(raw["logits"], soft, label_smoothing=smoothing)), rel=1e-5
    )


def test_focal_loss() -> None:
    raw, targets = {"logits": logits(32)}, labels(32)
    plain = F.cross_entropy(raw["logits"], torch.tensor(targets), reduction="none")
    zero = head(loss="focal", gamma=0.0).loss(raw, targets)["loss"]
    assert float(zero) == pytest.approx(float(plain.mean()), rel=1e-6)
    two = head(loss="focal", gamma=2.0).sample_loss(raw, targets)
    torch.testing.assert_close(two, (1 - (-plain).exp()) ** 2 * plain)  # Lin et al. 2017, equation 4
    unused = head(loss="cross_entropy", gamma=2.0).loss(raw, targets)["loss"]
    assert float(unused) == pytest.approx(float(plain.mean()), rel=1e-6)


def test_samples_without_a_label_do_not_count() -> None:
    raw, targets = {"logits": logits(6)}, labels(6)
    some: list[Any] = [None, *targets[1:4], None, targets[5]]
    rows = [1, 2, 3, 5]
    ours = head(label_smoothing=0.1, class_weights=[1, 2, 3, 4, 5]).loss(raw, some)["loss"]
    theirs = F.cross_entropy(
        raw["logits"][rows],
        torch.tensor([targets[i] for i in rows]),
        weight=torch.tensor([1.0, 2, 3, 4, 5]),
        label_smoothing=0.1,
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    each = head().sample_loss(raw, some)
    assert each.isnan().tolist() == [True, False, False, False, True, False]
    expected = F.cross_entropy(raw["logits"][rows], torch.tensor([targets[i] for i in rows]), reduction="none")
    torch.testing.assert_close(each[rows], expected)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_no_labels_at_all_is_a_zero_on_the_graph(kind: str) -> None:
    model = head(loss=kind, label_smoothing=0.1)
    features = Features([], lambda: torch.ones(3, 6))
    loss = model.loss(model(features), [None, None, None])["loss"]
    assert loss.item() == 0.0 and loss.requires_grad
    loss.backward()
    assert [p.grad is not None and bool((p.grad == 0).all()) for p in model.parameters()] == [True, True]


def test_the_mean_of_the_sample_losses_is_the_loss() -> None:
    raw, targets = {"logits": logits(20)}, labels(20)
    model = head(label_smoothing=0.2)
    assert float(model.sample_loss(raw, targets).mean()) == pytest.approx(float(model.loss(raw, targets)["loss"]))


def test_begins_small() -> None:
    model = head(dim=400, hidden=50)
    assert model.hidden is not None and model.hidden.weight.shape == (50, 400)
    assert model.linear.weight.shape == (5, 50)
    assert model.linear.weight.std().item() == pytest.approx(0.01, rel=0.15)
    assert bool((model.linear.bias == 0).all())


def test_forward_is_the_layers_in_order() -> None:
    model = head(hidden=3)
    x = torch.randn(4, 6)
    out = model(Features([], lambda: x))
    assert model.hidden is not None and list(out) == ["logits"]
    torch.testing.assert_close(out["logits"], model.linear(F.gelu(model.hidden(x))))
    dropping = head(dropout=0.5).train()
    assert not torch.equal(
        dropping(Features([], lambda: x))["logits"], dropping.eval()(Features([], lambda: x))["logits"]
    )


def test_predictions_in_words() -> None:
    model = head(3)
    (prediction,) = model.decode({"logits": torch.tensor([[0.0, 2.0, 1.0]])}, [Frame.whole(8, 8)])
    torch.testing.assert_close(prediction["scores"], torch.tensor([0.0, 2.0, 1.0]).softmax(0))
    assert model.describe(prediction) == ("bee", pytest.approx(0.66524, abs=1e-5))
    assert model.describe_target(2) == "cat" and model.describe_target(None) == ""


def test_drawings_say_what_is_wrong() -> None:
    model = head(3)
    image = torch.zeros(1, 40, 80, dtype=torch.uint8)
    prediction = {"scores": torch.tensor([0.1, 0.7, 0.2])}

    def strip(*arguments: Any) -> list[int]:
        drawing = model.draw(image, *arguments)
        assert drawing.dtype == torch.uint8 and drawing.shape[0] == 3 and drawing.shape[2] == 320
        assert drawing[:, :160].sum() == 0  # the image itself, enlarged four times
        return drawing[:, -1, -1].tolist()

    assert strip(prediction, 1) == list(GOOD)
    assert strip(prediction, 2) == list(BAD)
    assert strip(prediction) == list(GOOD)
    assert model.draw(image, None).shape == (3, 160, 320)


def test_figure_of_the_confusion_matrix() -> None:
    (figure,) = head(3).figures({"confusion_matrix": torch.tensor([[5, 1, 0], [0, 0, 0], [2, 0, 7]])}).values()
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ant", "bee", "cat"]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "5"),
        ((1, 0), "1"),
        ((0, 2), "2"),
        ((2, 2), "7"),
    }
    assert axes.images[0].get_array()[0].tolist() == pytest.approx([5 / 6, 1 / 6, 0])


def test_options_that_make_no_sense() -> None:
    with pytest.raises(
        UserError, match=r"heads.classification.loss=hinge: write one of cross_entropy, focal, or a module"
    ):
        head(loss="hinge")
    with pytest.raises(UserError, match=r"^heads.classification.class_weights has 2 numbers for 5 classes; write one"):
        head(class_weights=[1.0, 2.0])
