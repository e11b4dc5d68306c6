"""Regularised logistic regression on fixed embeddings, multinomial or one per label, solved to convergence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and targets

# Weaker penalties fit better on a poor embedding, but with weights so large that fine-tuning cannot start from them.
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


@dataclass(frozen=True)
class LinearFit:
    """``logits = x @ weight.T + bias`` for unscaled embeddings (centring and scaling are folded in)."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    penalty: float
    val_loss: float
    val_accuracy: float  # of the samples, or of the labels


def fit_logistic(
    x: Tensor,
    y: Tensor,
    penalty: float,
    start: Tensor | None = None,
    max_iter: int = 500,
    loss: Loss = F.cross_entropy,
) -> Tensor:
    """Minimise ``loss + penalty / 2 * |W|^2`` with L-BFGS; the bias has no penalty.

    With a mean cross-entropy this is the objective of scikit-learn's `LogisticRegression(C=1 / (penalty * N))`.

    Args:
        x: ``(N, D)`` embeddings, centred and of a scale of about one.
        y: ``(N,)`` class indices or ``(N, C)`` class probabilities.
        penalty: weight of the squared norm, > 0.
        start: ``(C, D + 1)`` initial weights; the last column is the bias.

    Returns:
        ``(C, D + 1)`` weights; the last column is the bias.
    """
    classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    theta = (torch.zeros(classes, x.shape[1] + 1) if start is None else start.clone()).to(x).requires_grad_()
    solver = torch.optim.LBFGS(
        [theta],
        max_iter=max_iter,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
    )

    def objective() -> Tensor:
        solver.zero_grad()
        weight, bias = theta[:, :-1], theta[:, -1]
        value = loss(F.linear(x, weight, bias), y) + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(objective)
    return theta.detach()


def probe(
    x: Tensor,
    y: Tensor,
    x_val: Tensor,
    y_val: Tensor,
    classes: int,
    label_smoothing: float = 0.0,
    penalties: Sequence[float] = PENALTIES,
) -> LinearFit:
    """The solution of `fit_logistic` for the penalty with the lowest validation loss.

    Args:
        x, x_val: ``(N, D)`` embeddings.
        y, y_val: ``(N,)`` class indices in ``0..classes-1``.
        label_smoothing: 0..1, the same as in the training. The head would otherwise move at the start of the training,
            and change the features with it.
    """
    target = F.one_hot(y, classes) * (1 - label_smoothing) + label_smoothing / classes
    validation = partial(F.cross_entropy, target=y_val, label_smoothing=label_smoothing)
    weight, bias, penalty, loss = _best(x, target, x_val, F.cross_entropy, validation, penalties)
    accuracy = (F.linear(x_val, weight, bias).argmax(1) == y_val).float().mean().item()
    return LinearFit(weight, bias, penalty, loss, accuracy)


def probe_labels(
    x: Tensor,
    y: Tensor,
    x_val: Tensor,
    y_val: Tensor,
    label_smoothing: float = 0.0,
    pos_weight: Tensor | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> LinearFit:
    """One logistic regression per label, all with the penalty that has the lowest validation loss.

    The loss is the sum over labels of the mean binary cross-entropy over the samples whose label is known.

    Args:
        x, x_val: ``(N, D)`` embeddings.
        y, y_val: ``(N, C)`` of 0 and 1, NaN where unknown.
        label_smoothing: 0..1 of the way to one half.
        pos_weight: ``(C,)``, factor of the loss of labels that are present.
    """

    def entropy(logits: Tensor, truth: Tensor) -> Tensor:
        known = ~truth.isnan()
        target = truth.nan_to_num(0.0) * (1 - label_smoothing) + 0.5 * label_smoothing
        weight = known / known.sum(0).clamp_min(1)
        return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum", pos_weight=pos_weight)

    def validation(logits: Tensor) -> Tensor:
        return entropy(logits, y_val.to(logits))

    weight, bias, penalty, loss = _best(x, y, x_val, entropy, validation, penalties)
    correct = (F.linear(x_val, weight, bias) > 0) == (y_val > 0.5)
    return LinearFit(weight, bias, penalty, loss, correct[~y_val.isnan()].float().mean().item())


def _best(
    x: Tensor, y: Tensor, x_val: Tensor, loss: Loss, validation: Callable[[Tensor], Tensor], penalties: Sequence[float]
) -> tuple[Tensor, Tensor, float, float]:
    """Weight, bias, penalty and validation loss of the best fit along a path of penalties."""
    dtype = x.dtype
    # In 64 bits, if the device has them, the solution is the same for every rank and every batch size.
    x, x_val = (part.to(torch.float64 if part.device.type != "mps" else dtype) for part in (x, x_val))
    # One scale for all dimensions. With a scale per dimension, those that hardly vary would get large weights, which
    # generalise worse and enlarge the gradients that fine-tuning then sends into the backbone.
    mean, scale = x.mean(0), x.var(0, correction=0).mean().sqrt().clamp_min(1e-12)
    z, z_val, y = (x - mean) / scale, (x_val - mean) / scale, y.to(x)
    theta: Tensor | None = None
    best: tuple[float, float, Tensor] | None = None
    for penalty in penalties:  # strongest first: each solution is a good start for the next
        theta = fit_logistic(z, y, penalty, start=theta, loss=loss)
        value = validation(F.linear(z_val, theta[:, :-1], theta[:, -1])).item()
        if best is None or value < best[0]:
            best = (value, penalty, theta)
        elif value > best[0] * 1.1:
            break  # well past the minimum; weaker penalties take longest
    assert best is not None
    value, penalty, theta = best
    weight = theta[:, :-1] / scale
    return weight.to(dtype), (theta[:, -1] - weight @ mean).to(dtype), penalty, value
