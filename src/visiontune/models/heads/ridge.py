"""Ridge regression on fixed embeddings, in closed form.

scikit-learn's `Ridge` and `RidgeCV` refuse targets with NaN, which are unknown values here. `RidgeCV` also chooses its
penalty by cross-validation on the training data instead of the validation split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


@dataclass(frozen=True)
class RidgeFit:
    """``values = x @ weight.T + bias`` for unscaled embeddings (centring and scaling are folded in)."""

    weight: Tensor  # (V, D)
    bias: Tensor  # (V,)
    penalties: Tensor  # (V,)
    val_errors: Tensor  # (V,), mean squared error on the validation split


def ridge(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, penalties: Sequence[float] = PENALTIES) -> RidgeFit:
    """Minimise ``mean squared error + penalty * |w|^2`` for each value, with the penalty of the lowest error on val.

    This is the solution of scikit-learn's `Ridge(alpha=penalty * N)` on embeddings that are centred and divided by one
    scale for all dimensions. Sums are in 64 bits if the device has them.

    Args:
        x, x_val: ``(N, D)`` embeddings.
        y, y_val: ``(N, V)``, NaN where unknown; each value is known at least once in both.
    """
    dtype = x.dtype
    x, y, x_val, y_val = (part.to(torch.float64 if x.device.type != "mps" else dtype) for part in (x, y, x_val, y_val))
    mean, scale = x.mean(0), x.var(0, correction=0).mean().sqrt().clamp_min(1e-12)
    z, z_val = (x - mean) / scale, (x_val - mean) / scale
    weight, bias = z.new_zeros(y.shape[1], x.shape[1]), z.new_zeros(y.shape[1])
    best, errors = z.new_zeros(y.shape[1]), z.new_full((y.shape[1],), torch.inf)
    known = ~y.isnan()
    for rows in known.T.unique(dim=0):  # values that are known for the same samples are solved together
        values = (rows == known.T).all(1).nonzero()[:, 0]
        part, truth = z[rows], y[rows][:, values]
        x_mean, y_mean = part.mean(0), truth.mean(0)
        part = part - x_mean
        variances, axes = torch.linalg.eigh(part.T @ part / len(part))
        covariances = axes.T @ (part.T @ (truth - y_mean) / len(part))
        for penalty in penalties:
            solution = (axes @ (covariances / (variances[:, None].clamp_min(0) + penalty))).T
            offset = y_mean - solution @ x_mean
            error = (z_val @ solution.T + offset - y_val[:, values]).square().nanmean(0)
            better = error < errors[values]
            updates = values[better]
            weight[updates], bias[updates], errors[updates] = solution[better], offset[better], error[better]
            best[updates] = penalty
    weight = weight / scale
    return RidgeFit(weight.to(dtype), (bias - weight @ mean).to(dtype), best, errors)
