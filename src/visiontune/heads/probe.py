"""Regularised multinomial logistic regression on fixed embeddings, solved to the end in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Weaker ones fit better still where the embedding is poor, but by weights so large that fine-tuning cannot start there.
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


@dataclass(frozen=True)
class LinearFit:
    """``logits = x @ weight.T + bias`` for embeddings as they come (centring and scaling are folded in)."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    penalty: float
    val_loss: float
    val_accuracy: float


def fit_logistic(x: Tensor, y: Tensor, penalty: float, start: Tensor | None = None, max_iter: int = 500) -> Tensor:
    """Minimise ``mean cross-entropy + penalty / 2 * |W|^2`` with L-BFGS; the bias carries no penalty.

    The same objective as scikit-learn's `LogisticRegression(C=1 / (penalty * N))`.

    Args:
        x: ``(N, D)`` embeddings, centred and of a scale of about one.
        y: ``(N,)`` class indices or ``(N, C)`` class probabilities.
        penalty: weight of the squared norm, > 0.
        start: ``(C, D + 1)`` weights to begin at, the last column the bias.
    Returns:
        ``(C, D + 1)``.
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
        value = F.cross_entropy(F.linear(x, weight, bias), y) + 0.5 * penalty * weight.square().sum()
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
    """Fit `fit_logistic` along a path of penalties; the one with the lowest validation loss wins.

    Args:
        x, x_val: ``(N, D)`` embeddings.
        y, y_val: ``(N,)`` class indices in ``0..classes-1``.
        label_smoothing: 0..1, the one that training goes on with: a solution of another objective would first be
            pulled away from where it is, and the features with it.
    """
    dtype = x.dtype
    # 64 bits, where the device has them: the solution is unique, and so is what every rank and every batch size finds.
    x, x_val = (part.to(torch.float64 if part.device.type != "mps" else dtype) for part in (x, x_val))
    # One scale for all dimensions: a scale each would give those that hardly vary large weights, which generalise worse
    # and blow up the gradient that fine-tuning then sends into the backbone.
    mean, scale = x.mean(0), x.var(0, correction=0).mean().sqrt().clamp_min(1e-12)
    z, z_val = (x - mean) / scale, (x_val - mean) / scale
    target = F.one_hot(y, classes).to(z) * (1 - label_smoothing) + label_smoothing / classes
    theta: Tensor | None = None
    best: tuple[float, float, Tensor] | None = None
    for penalty in penalties:  # strongest first: each solution is a good start for the next
        theta = fit_logistic(z, target, penalty, start=theta)
        loss = F.cross_entropy(
            F.linear(z_val, theta[:, :-1], theta[:, -1]), y_val, label_smoothing=label_smoothing
        ).item()
        if best is None or loss < best[0]:
            best = (loss, penalty, theta)
        elif loss > best[0] * 1.1:
            break  # well past the minimum, and weaker penalties take longest
    assert best is not None
    loss, penalty, theta = best
    weight = theta[:, :-1] / scale
    bias = theta[:, -1] - weight @ mean
    accuracy = (F.linear(x_val, weight, bias).argmax(1) == y_val).float().mean().item()
    return LinearFit(weight.to(dtype), bias.to(dtype), penalty, loss, accuracy)
