"""The linear probe is scikit-learn's logistic regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor
from torch.nn import functional as F

from visiontune.data import TaskInfo
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import ClassificationHead
from visiontune.models.heads.probe import PENALTIES, fit_logistic, probe


def blobs(count: int, seed: int, classes: int = 3, dim: int = 8) -> tuple[Tensor, Tensor]:
    """Overlapping clouds around a centre a class, neither centred nor of unit scale."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=draw)
    x = centres[y] + 1.2 * torch.randn(count, dim, generator=draw)
    return x * torch.linspace(1, 4, dim) + 5, y


def standard(x: Tensor, like: Tensor) -> np.ndarray:
    """Centred, and divided by one scale for all dimensions."""
    like = like.double()
    return ((x - like.mean(0)) / like.var(0, correction=0).mean().sqrt()).numpy()


@pytest.mark.parametrize("penalty", [1.0, 0.01, 0.0003])
def test_equals_scikit_learn(penalty: float) -> None:
    x, y = blobs(120, 0)
    z = standard(x, x)
    theirs = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-10, max_iter=10_000).fit(z, y.numpy())
    ours = fit_logistic(torch.from_numpy(z), y, penalty)
    assert ours.shape == (3, 9) and not ours.requires_grad
    np.testing.assert_allclose(ours[:, :-1].numpy(), theirs.coef_, rtol=1e-3, atol=1e-4)
    # Only differences of the bias are determined: it carries no penalty.
    np.testing.assert_allclose((ours[:, -1] - ours[:, -1].mean()).numpy(), theirs.intercept_, rtol=1e-3, atol=1e-4)
    probabilities = F.linear(torch.from_numpy(z), ours[:, :-1], ours[:, -1]).softmax(1)
    np.testing.assert_allclose(probabilities.numpy(), theirs.predict_proba(z), atol=1e-4)


def test_a_start_changes_the_way_and_not_the_end() -> None:
    x, y = blobs(80, 0)
    z = torch.from_numpy(standard(x, x))
    far = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        fit_logistic(z, y, 0.1, start=far)[:, :-1], fit_logistic(z, y, 0.1)[:, :-1], atol=1e-4, rtol=0
    )


def test_the_penalty_with_the_lowest_validation_loss_wins() -> None:
    (x, y), (x_val, y_val) = blobs(60, 0), blobs(200, 1)
    z, z_val = standard(x, x), standard(x_val, x)
    path = [LogisticRegression(C=1 / (p * len(y)), tol=1e-10, max_iter=10_000).fit(z, y.numpy()) for p in PENALTIES]
    losses = [log_loss(y_val.numpy(), model.predict_proba(z_val)) for model in path]
    best = int(np.argmin(losses))
    assert 0 < best < len(PENALTIES) - 1  # neither end of the path
    found = probe(x, y, x_val, y_val, 3)
    assert found.penalty == PENALTIES[best]
    assert found.val_loss == pytest.approx(losses[best], abs=1e-6)
    assert found.val_accuracy == pytest.approx(path[best].score(z_val, y_val.numpy()))
    # Centring and scaling are folded into weight and bias: embeddings go in as they come.
    logits = F.linear(x_val, found.weight, found.bias)
    np.testing.assert_allclose(logits.softmax(1).numpy(), path[best].predict_proba(z_val), atol=1e-4)


def test_smoothing_is_of_the_objective() -> None:
    (x, y), (x_val, y_val) = blobs(60, 0), blobs(60, 1)
    found = probe(x, y, x_val, y_val, 3, label_smoothing=0.2, penalties=[0.01])
    scale = x.var(0, correction=0).mean().sqrt()
    z = (x - x.mean(0)) / scale
    weight = (found.weight * scale).requires_grad_()
    bias = (found.bias + found.weight @ x.mean(0)).requires_grad_()
    loss = F.cross_entropy(F.linear(z, weight, bias), y, label_smoothing=0.2) + 0.005 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert float(gradient.abs().max()) < 1e-4  # a minimum of this loss


def test_classes_and_features_that_say_nothing() -> None:
    (x, y), (x_val, y_val) = blobs(60, 0), blobs(60, 1)
    x[:, 3], x_val[:, 3] = 7.0, 7.0
    found = probe(x, y, x_val, y_val, classes=4)  # a class that no sample has
    assert found.weight.shape == (4, 8) and bool(torch.isfinite(found.weight).all())
    assert not (F.linear(x_val, found.weight, found.bias).argmax(1) == 3).any()
    assert found.val_accuracy > 0.5


def test_a_head_takes_the_solution() -> None:
    (x, y), (x_val, y_val) = blobs(60, 0), blobs(60, 1)
    head = ClassificationHead(FeatureShape([], [], 8), TaskInfo("classification", ["a", "b", "c"]), label_smoothing=0.1)
    # Samples of other tasks are no part of it.
    more = torch.cat([x, torch.full((2, 8), 1e6)]), [*y.tolist(), None, None]
    line = head.fit_probe(more, (x_val, y_val.tolist()))
    expected = probe(x, y, x_val, y_val, 3, label_smoothing=0.1)
    torch.testing.assert_close(head.linear.weight.detach(), expected.weight)
    torch.testing.assert_close(head.linear.bias.detach(), expected.bias)
    assert line == (
        f"logistic regression on 60 embeddings, penalty {expected.penalty:g}, "
        f"accuracy on val {expected.val_accuracy:.3f}"
    )
    assert head.linear.weight.requires_grad
    right = head(Features([], lambda: x_val))["logits"].argmax(1) == y_val
    assert float(right.float().mean()) == pytest.approx(expected.val_accuracy)


@pytest.mark.parametrize("case", ["hidden", "no train labels", "no val labels"])
def test_a_head_without_such_a_solution_stays_as_it_is(case: str) -> None:
    (x, y), (x_val, y_val) = blobs(10, 0), blobs(10, 1)
    head = ClassificationHead(
        FeatureShape([], [], 8), TaskInfo("classification", ["a", "b", "c"]), hidden=4 if case == "hidden" else None
    )
    before = head.linear.weight.detach().clone()
    targets: list = [None] * 10 if case == "no train labels" else y.tolist()
    val_targets: list = [None] * 10 if case == "no val labels" else y_val.tolist()
    assert head.fit_probe((x, targets), (x_val, val_targets)) is None
    assert torch.equal(head.linear.weight, before)
