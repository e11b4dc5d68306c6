"""The multilabel head against scikit-learn and PyTorch's own losses."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from drawn_scenes import CLASSES, overfit, tiny
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import MultilabelHead
from visiontune.models.heads.drawing import BAD, GOOD
from visiontune.models.heads.metrics import name_scalars
from visiontune.models.heads.probe import PENALTIES, probe_labels

LABELS = ["ant", "bee", "cat", "dog", "eel"]
NAN = float("nan")


def head(labels: int = 5, dim: int = 6, **options: Any) -> MultilabelHead:
    torch.manual_seed(0)
    return MultilabelHead(FeatureShape([], [], dim), TaskInfo("multilabel", LABELS[:labels]), **options)


def logits(count: int, labels: int = 5, seed: int = 0) -> Tensor:
    return 2 * torch.randn(count, labels, generator=torch.Generator().manual_seed(seed))


def truths(count: int, labels: int = 5, seed: int = 1) -> Tensor:
    return (torch.rand(count, labels, generator=torch.Generator().manual_seed(seed)) < 0.35).float()


def measured(scores: Tensor, truth: Tensor, sizes: list[int], **options: Any) -> dict[str, Tensor]:
    """The metrics after batches of these sizes."""
    metrics = head(scores.shape[1], **options).metrics()
    for part in torch.arange(len(scores)).split(sizes):
        metrics.update([{"scores": row} for row in scores[part]], list(truth[part]))
    return name_scalars(metrics.compute())


# ---- metrics


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_metrics_are_of_the_whole_split_and_equal_scikit_learns(threshold: float) -> None:
    truth = truths(101)
    scores = (logits(101) + 6 * truth - 3).sigmoid()
    scores[5:9] = scores[4]  # ties
    found = measured(scores, truth, [40, 1, 0, 25, 3, 32], threshold=threshold)
    guess, expected = scores > threshold, truth.bool()
    values = {
        "map": average_precision_score(expected, scores, average="macro"),
        "f1": f1_score(expected, guess, average="macro"),
        "f1_micro": f1_score(expected, guess, average="micro"),
        "accuracy": accuracy_score(expected, guess),
    }
    assert 0.1 < values["accuracy"] < 0.9
    for name, value in values.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-6), name
    each = average_precision_score(expected, scores, average=None)
    np.testing.assert_allclose([float(found[f"ap/{name}"]) for name in LABELS], each, atol=1e-6)
    each = f1_score(expected, guess, average=None)
    np.testing.assert_allclose([float(found[f"f1/{name}"]) for name in LABELS], each, atol=1e-6)
    assert {*values, "loss"} == set(MultilabelHead.directions) and MultilabelHead.monitor in values


def test_labels_that_nobody_has_or_knows_do_not_count() -> None:
    truth, scores = truths(60), logits(60).sigmoid()
    truth[:, 3] = 0  # without positives, but predicted
    truth[:, 4], scores[:, 4] = 0, 0.1  # neither
    unknown = torch.rand(60, 5, generator=torch.Generator().manual_seed(3)) < 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(scores, truth.masked_fill(unknown, NAN), [50, 10])
    rows = [~unknown[:, c] for c in range(5)]
    ap = [average_precision_score(truth[r, c], scores[r, c]) for c, r in enumerate(rows[:3])]
    f1 = [f1_score(truth[r, c], scores[r, c] > 0.5) for c, r in enumerate(rows[:4])]
    assert [float(found[f"ap/{name}"]) for name in LABELS] == pytest.approx([*ap, NAN, NAN], abs=1e-6, nan_ok=True)
    assert [float(found[f"f1/{name}"]) for name in LABELS] == pytest.approx([*f1, NAN], abs=1e-6, nan_ok=True)
    assert float(found["map"]) == pytest.approx(np.mean(ap), abs=1e-6)
    assert float(found["f1"]) == pytest.approx(np.mean(f1), abs=1e-6)
    known = ~unknown
    assert float(found["f1_micro"]) == pytest.approx(f1_score(truth[known], scores[known] > 0.5), abs=1e-6)
    right = (((scores > 0.5) == truth.bool()) | unknown).all(1).float().mean()
    assert float(found["accuracy"]) == pytest.approx(float(right), abs=1e-6)


def test_a_sample_without_any_known_label_is_not_counted() -> None:
    truth = torch.tensor([[1.0, 0, 0, 0, 0], [NAN] * 5])
    found = measured(torch.zeros(2, 5), truth, [1, 1])
    assert float(found["accuracy"]) == 0.0


# ---- losses


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_binary_cross_entropy(weights: list[float] | None, smoothing: float) -> None:
    raw, truth = {"logits": logits(16)}, truths(16)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.binary_cross_entropy_with_logits(
        raw["logits"], truth * (1 - smoothing) + smoothing / 2, pos_weight=weight
    )
    ours = head(pos_weight=weights, label_smoothing=smoothing).loss(raw, list(truth))
    assert list(ours) == ["loss"] and float(ours["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_focal_loss_is_torchvisions() -> None:
    raw, truth = {"logits": logits(16)}, truths(16)
    for gamma, option in ((2.0, {}), (1.0, {"gamma": 1.0})):
        expected = sigmoid_focal_loss(raw["logits"], truth, alpha=-1, gamma=gamma, reduction="mean")
        assert float(head(loss="focal", **option).loss(raw, list(truth))["loss"]) == pytest.approx(float(expected))


def test_asymmetric_loss() -> None:
    raw, truth = {"logits": logits(16)}, truths(16)
    p = raw["logits"].sigmoid()
    shifted = (p - 0.05).clamp_min(0)  # Ridnik et al. 2021, equations 5 to 7
    expected = torch.where(truth == 1, -(1 - p) * p.log(), -(shifted**4) * (1 - shifted).log()).mean()
    assert float(head(loss="asymmetric").loss(raw, list(truth))["loss"]) == pytest.approx(float(expected), rel=1e-5)
    plain = F.binary_cross_entropy_with_logits(raw["logits"][truth == 0], torch.zeros(int((truth == 0).sum())))
    absent = head(loss="asymmetric", gamma=0.0, margin=0.0).loss(raw, list(truth.masked_fill(truth == 1, NAN)))
    known = (truth == 0).sum(1)
    each = F.binary_cross_entropy_with_logits(raw["logits"], truth, reduction="none") * (truth == 0)
    assert float(absent["loss"]) == pytest.approx(float((each.sum(1) / known).mean()), rel=1e-4) != float(plain)
    sure = head(loss="asymmetric").loss({"logits": torch.full((1, 5), 200.0)}, [torch.zeros(5)])["loss"]
    assert bool(sure.isfinite())


@pytest.mark.parametrize("kind", ["bce", "focal", "asymmetric"])
def test_unknown_labels_and_samples_do_not_count(kind: str) -> None:
    given = logits(5).requires_grad_()
    truth = truths(5)
    truth[0, 2:], truth[3] = NAN, NAN
    some: list[Any] = [truth[0], None, truth[2], truth[3], truth[4]]
    model = head(loss=kind, label_smoothing=0.1)
    each = model.sample_loss({"logits": given}, some)
    assert each.isnan().tolist() == [False, True, False, True, False]
    total = model.loss({"logits": given}, some)["loss"]
    assert float(total.detach()) == pytest.approx(float(each.detach().nanmean()), rel=1e-5)
    alone = model.sample_loss({"logits": given[:1, :2]}, [truth[0, :2]])
    torch.testing.assert_close(each[:1], alone)
    total.backward()
    reached = given.grad != 0
    assert not reached[[1, 3]].any() and not reached[0, 2:].any() and bool(given.grad.isfinite().all())
    assert bool(reached[2].all()) or kind == "asymmetric"  # which an absent label below the margin costs nothing


@pytest.mark.parametrize("targets", [[None, None, None], [None, torch.full((5,), NAN), None]])
@pytest.mark.parametrize("kind", ["bce", "focal", "asymmetric"])
def test_nothing_known_is_a_zero_on_the_graph(kind: str, targets: list[Any]) -> None:
    model = head(loss=kind)
    loss = model.loss(model(Features([], lambda: torch.ones(3, 6))), targets)["loss"]
    assert loss.item() == 0.0 and loss.requires_grad
    loss.backward()
    assert [bool((p.grad == 0).all()) for p in model.parameters() if p.grad is not None] == [True, True]


# ---- learning


def test_learns_eight_images_by_heart() -> None:
    backbone = tiny()
    model = MultilabelHead(
        backbone.shape,
        TaskInfo("multilabel", CLASSES[1:]),
    )
    found = overfit(model, backbone, "multilabel", 40)
    assert min(found["map"], found["f1"], found["accuracy"]) >= 0.95


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings, neither centred nor of unit scale, and three labels of which two depend on them."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=draw)
    chance = torch.stack([x[:, 0] + x[:, 1], 2 * x[:, 2] - 1, torch.zeros(count)], 1).sigmoid()
    return x * torch.linspace(1, 4, 8) + 5, (torch.rand(count, 3, generator=draw) < chance).float()


def test_the_probe_is_a_logistic_regression_a_label() -> None:
    (x, y), (x_val, y_val) = points(120, 0), points(200, 1)
    y[::5, 0] = NAN
    y_val[::7, 1] = NAN
    scale = x.double().var(0, correction=0).mean().sqrt()
    z, z_val = ((part.double() - x.double().mean(0)) / scale for part in (x, x_val))
    sums, chances = [], []
    for penalty in PENALTIES:
        each = []
        for c in range(3):
            rows = ~y[:, c].isnan()
            model = LogisticRegression(C=1 / (penalty * int(rows.sum())), tol=1e-10, max_iter=10_000)
            each.append(model.fit(z[rows], y[rows, c]).predict_proba(z_val)[:, 1])
        known = [~y_val[:, c].isnan().numpy() for c in range(3)]
        sums.append(sum(log_loss(y_val[k, c], each[c][k]) for c, k in enumerate(known)))
        chances.append(np.stack(each, 1))
    best = int(np.argmin(sums))
    assert 0 < best < len(PENALTIES) - 1  # neither end of the path
    found = probe_labels(x, y, x_val, y_val)
    assert found.penalty == PENALTIES[best] and found.val_loss == pytest.approx(sums[best], abs=1e-5)
    np.testing.assert_allclose(F.linear(x_val, found.weight, found.bias).sigmoid(), chances[best], atol=1e-3)
    right = ((chances[best] > 0.5) == y_val.bool().numpy())[~y_val.isnan().numpy()]
    assert found.val_accuracy == pytest.approx(right.mean(), abs=1e-6)


def test_a_head_takes_the_solution() -> None:
    (x, y), (x_val, y_val) = points(60, 0), points(60, 1)
    model = head(3, 8, label_smoothing=0.1)
    more = torch.cat([x, torch.full((2, 8), 1e6)]), [*y, None, None]  # samples of other tasks are no part of it
    line = model.fit_probe(more, (x_val, list(y_val)))
    expected = probe_labels(x, y, x_val, y_val, 0.1)
    torch.testing.assert_close(model.linear.weight.detach(), expected.weight)
    torch.testing.assert_close(model.linear.bias.detach(), expected.bias)
    assert line == (
        f"logistic regressions on 60 embeddings, penalty {expected.penalty:g}, "
        f"{expected.val_accuracy:.3f} of the labels on val right"
    )
    for other, targets in ((head(3, 8, hidden=4), list(y)), (model, [None] * 60)):
        before = other.linear.weight.detach().clone()
        assert other.fit_probe((x, targets), (x_val, list(y_val))) is None
        assert torch.equal(other.linear.weight, before)


# ---- words and images


def test_predictions_in_words() -> None:
    model = head(4)
    given = {"logits": torch.tensor([[2.0, -2.0, 3.0, 0.1], [-1.0, -2.0, -3.0, -4.0]])}
    first, second = model.train().decode(given, [Frame.whole(8, 8)] * 2)
    torch.testing.assert_close(first["scores"], given["logits"][0].sigmoid())
    assert torch.equal(model.eval().decode(given, [Frame.whole(8, 8)] * 2)[0]["scores"], first["scores"])
    assert model.describe(first) == ("cat 95%, ant 88%, dog 52%", pytest.approx(0.952574))
    assert model.describe(second) == ("none", pytest.approx(0.2689414))
    assert head(4, threshold=0.9).describe(first)[0] == "cat 95%"
    assert model.describe_target(torch.tensor([1.0, 0, NAN, 1])) == "ant, cat?, dog"
    assert model.describe_target(torch.zeros(4)) == "none" and model.describe_target(None) == ""


def test_drawings_say_what_is_wrong() -> None:
    model, image = head(3), torch.zeros(1, 40, 80, dtype=torch.uint8)
    prediction = {"scores": torch.tensor([0.1, 0.7, 0.9])}

    def strip(*arguments: Any) -> list[int]:
        drawing = model.draw(image, *arguments)
        assert drawing.dtype == torch.uint8 and drawing.shape[0] == 3 and drawing.shape[1] > 160
        return drawing[:, -1, -1].tolist()

    assert strip(prediction, torch.tensor([0.0, 1, 1])) == list(GOOD) == strip(prediction)
    assert strip(prediction, torch.tensor([NAN, 1, 1])) == list(GOOD)
    assert strip(prediction, torch.tensor([0.0, 0, 1])) == list(BAD)
    assert model.draw(image, None).shape == (3, 160, 320)


def test_options_that_make_no_sense() -> None:
    for options, message in (
        ({"loss": "hinge"}, "heads.multilabel.loss=hinge: write one of bce, focal, asymmetric, or a module"),
        ({"loss": "focal", "pos_weight": [1.0] * 5}, "pos_weight is only for heads.multilabel.loss=bce; write"),
        ({"pos_weight": [1.0]}, "heads.multilabel.pos_weight has 1 numbers for 5 classes; write one per class, or"),
        ({"threshold": 1.0}, "heads.multilabel.threshold=1.0: write a number between 0 and 1"),
        ({"label_smoothing": 2}, "heads.multilabel.label_smoothing=2: expected a fraction from 0 to 1"),
        ({"loss": {"name": "bce"}}, "heads.multilabel.loss={'name': 'bce'}: write one of bce, focal, asymmetric"),
    ):
        with pytest.raises(UserError, match=message):
            head(**options)  # type: ignore[arg-type]
