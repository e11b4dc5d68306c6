"""The regression head against scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from drawn_scenes import overfit, tiny
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor
from torch.nn import functional as F

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import RegressionHead
from visiontune.models.heads.drawing import BAD, GOOD
from visiontune.models.heads.metrics import name_scalars
from visiontune.models.heads.ridge import PENALTIES, ridge

NAMES = ["width", "height", "age"]
NAN = float("nan")


def head(values: int = 3, dim: int = 6, **options: Any) -> RegressionHead:
    torch.manual_seed(0)
    return RegressionHead(FeatureShape([], [], dim), TaskInfo("regression", NAMES[:values]), **options)


def numbers(count: int, values: int = 3, seed: int = 0) -> Tensor:
    """Of different scales, and one far from zero."""
    draw = torch.Generator().manual_seed(seed)
    scale, middle = torch.tensor([0.01, 5.0, 20.0]), torch.tensor([0.0, -3.0, 4000.0])
    return (torch.randn(count, 3, generator=draw) * scale + middle)[:, :values]


def measured(predicted: Tensor, truth: Tensor, sizes: list[int]) -> dict[str, Tensor]:
    """The metrics after batches of these sizes."""
    metrics = head(truth.shape[1]).metrics()
    for part in torch.arange(len(truth)).split(sizes):
        metrics.update([{"values": row} for row in predicted[part]], list(truth[part]))
    return name_scalars(metrics.compute())


# ---- metrics


@pytest.mark.parametrize("values", [1, 3])
def test_metrics_are_of_the_whole_split_and_equal_scikit_learns(values: int) -> None:
    truth = numbers(101, values)
    predicted = 0.6 * truth + 0.4 * numbers(101, values, seed=1)
    found = measured(predicted, truth, [40, 1, 0, 25, 3, 32])
    expected = {
        "mae": mean_absolute_error(truth.double(), predicted.double()),
        "rmse": root_mean_squared_error(truth.double(), predicted.double()),
        "r2": r2_score(truth.double(), predicted.double()),
    }
    assert 0.3 < expected["r2"] < 0.9
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name
    each = mean_absolute_error(truth.double(), predicted.double(), multioutput="raw_values")
    per_value = {name: float(value) for name, value in found.items() if name.startswith("mae/")}
    assert list(per_value) == ([f"mae/{name}" for name in NAMES] if values > 1 else [])
    np.testing.assert_allclose(list(per_value.values()), each[: len(per_value)], rtol=1e-6)
    assert set(found) - set(per_value) == set(RegressionHead.directions) - {"loss"}


def test_values_that_nobody_knows_or_that_never_change_do_not_count() -> None:
    truth, predicted = numbers(50), numbers(50, seed=1)
    truth[::3, 0], truth[:, 1] = NAN, 7.0
    found = measured(predicted, truth, [30, 20])
    known = ~truth[:, 0].isnan()
    mae = [
        mean_absolute_error(truth[r, c], predicted[r, c]) for c, r in ((0, known), (1, slice(None)), (2, slice(None)))
    ]
    r2 = [r2_score(truth[r, c].double(), predicted[r, c].double()) for c, r in ((0, known), (2, slice(None)))]
    assert float(found["mae"]) == pytest.approx(np.mean(mae), rel=1e-5)
    assert float(found["r2"]) == pytest.approx(np.mean(r2), rel=1e-5)
    constant = measured(predicted[:, :1], torch.ones(50, 1), [50])
    assert constant["r2"].isnan() and constant["mae"] > 0
    model = head()
    assert float(model.score(constant)) == 0.0 and float(model.score(found)) == max(0.0, float(found["r2"]))
    assert float(model.score({"r2": torch.tensor(0.7)})) == pytest.approx(0.7)


# ---- scale and loss


def test_targets_are_standardised_by_the_training_split() -> None:
    truth = numbers(40)
    truth[:, 1] = 7.0
    truth[:5, 2] = NAN
    model = head()
    model.fit_targets([None, *truth, None])
    known = truth[5:, 2].double()
    expected = [truth[:, 0].double(), truth[:, 1].double(), known]
    np.testing.assert_allclose(model.mean, [part.mean() for part in expected], rtol=1e-5)
    np.testing.assert_allclose(model.std, [expected[0].std(correction=0), 1.0, known.std(correction=0)], rtol=1e-5)
    assert {"mean", "std"} <= set(model.state_dict())  # a checkpoint brings them back
    x = torch.randn(4, 6)
    raw = model(Features([], lambda: x))
    decoded = torch.stack([prediction["values"] for prediction in model.decode(raw, [Frame.whole(8, 8)] * 4)])
    torch.testing.assert_close(decoded, raw["values"] * model.std + model.mean)
    nobody = head()
    nobody.fit_targets([None, torch.full((3,), NAN)])
    assert nobody.mean.tolist() == [0, 0, 0] and nobody.std.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("loss", "reference"), [("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", F.huber_loss)])
def test_loss_is_of_standardised_values(loss: str, reference: Any) -> None:
    truth, raw = numbers(20), {"values": 2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1))}
    model = head(loss=loss)
    model.fit_targets(list(truth))
    expected = reference(raw["values"], (truth - truth.mean(0)) / truth.std(0, correction=0))
    assert float(model.loss(raw, list(truth))["loss"]) == pytest.approx(float(expected), rel=1e-3)
    assert float(model.sample_loss(raw, list(truth)).mean()) == pytest.approx(float(expected), rel=1e-3)


def test_unknown_values_and_samples_do_not_count() -> None:
    given = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    some: list[Any] = [torch.tensor([NAN, 2.0, 1.0]), None, torch.tensor([1.0, 1.0, 1.0]), torch.full((3,), NAN)]
    model = head()
    each = model.sample_loss({"values": given}, some).detach()
    assert each.isnan().tolist() == [False, True, False, True]
    torch.testing.assert_close(each[0], F.mse_loss(given[0, 1:], torch.tensor([2.0, 1.0])).detach())
    total = model.loss({"values": given}, some)["loss"]
    assert total.item() == pytest.approx(float(each.nanmean()))
    total.backward()
    assert (given.grad != 0).tolist() == [[False, True, True], [False] * 3, [True] * 3, [False] * 3]


@pytest.mark.parametrize("targets", [[None, None, None], [None, torch.full((3,), NAN), None]])
def test_nothing_known_is_a_zero_on_the_graph(targets: list[Any]) -> None:
    model = head()
    loss = model.loss(model(Features([], lambda: torch.ones(3, 6))), targets)["loss"]
    assert loss.item() == 0.0 and loss.requires_grad
    loss.backward()
    assert [bool((p.grad == 0).all()) for p in model.parameters() if p.grad is not None] == [True, True]


# ---- learning


def test_learns_eight_images_by_heart() -> None:
    backbone = tiny()
    model = RegressionHead(backbone.shape, TaskInfo("regression", ["red", "green"]))
    found = overfit(model, backbone, "regression", 50)
    assert found["r2"] >= 0.95 and found["mae"] < 0.2 * float(model.std.mean())  # in pixels, as the targets are


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, generator=draw)
    noise = torch.randn(count, 2, generator=draw)
    y = torch.stack([x[:, :6].sum(1) + noise[:, 0], 0.4 * x[:, 6] + 2 * noise[:, 1]], 1)
    return x * torch.linspace(1, 3, 12) + 5, y


def test_the_probe_is_ridge_regression() -> None:
    (x, y), (x_val, y_val) = points(40, 0), points(300, 1)
    y[::4, 1], y_val[::5, 1] = NAN, NAN
    scale = x.double().var(0, correction=0).mean().sqrt()
    z, z_val = ((part.double() - x.double().mean(0)) / scale for part in (x, x_val))
    found = ridge(x, y, x_val, y_val)
    for c in range(2):
        rows, known = ~y[:, c].isnan(), ~y_val[:, c].isnan()
        guesses = [Ridge(alpha=p * int(rows.sum())).fit(z[rows], y[rows, c].double()).predict(z_val) for p in PENALTIES]
        errors = [float(np.mean((guess[known] - y_val[known, c].numpy()) ** 2)) for guess in guesses]
        best = int(np.argmin(errors))
        assert 0 < best < len(PENALTIES) - 1  # neither end of the path
        assert float(found.penalties[c]) == pytest.approx(PENALTIES[best])
        assert float(found.val_errors[c]) == pytest.approx(errors[best], rel=1e-6)
        # Centring and scaling are folded into weight and bias: embeddings go in as they come.
        np.testing.assert_allclose(F.linear(x_val, found.weight, found.bias)[:, c], guesses[best], atol=1e-4)
    assert found.penalties[0] != found.penalties[1]


def test_a_head_takes_the_solution() -> None:
    (x, y), (x_val, y_val) = points(40, 0), points(60, 1)
    y, y_val = 100 * y + 1000, 100 * y_val + 1000
    model = head(2, 12)
    model.fit_targets(list(y))
    # Samples of other tasks are no part of it.
    line = model.fit_probe((torch.cat([x, torch.full((1, 12), 1e6)]), [*y, None]), (x_val, list(y_val)))
    decoded = model.decode(model(Features([], lambda: x_val)), [Frame.whole(8, 8)] * 60)
    fit = ridge(x, y, x_val, y_val)  # the scale of the targets makes no difference
    torch.testing.assert_close(
        torch.stack([p["values"] for p in decoded]), F.linear(x_val, fit.weight, fit.bias), rtol=1e-4, atol=1e-2
    )
    assert line is not None and line.startswith("ridge regression on 40 embeddings, penalty ")
    for other, targets in ((head(2, 12, hidden=4), list(y)), (model, [None] * 40), (model, [*y * NAN])):
        before = other.linear.weight.detach().clone()
        assert other.fit_probe((x, targets), (x_val, list(y_val))) is None
        assert torch.equal(other.linear.weight, before)


# ---- words and images


def test_predictions_in_words() -> None:
    text, score = head(1).describe({"values": torch.tensor([12.34567])})
    assert text == "12.35" and math.isnan(score)
    model = head()
    assert (
        model.describe({"values": torch.tensor([0.00123456, -3.0, 4000.0])})[0] == "width 0.001235, height -3, age 4000"
    )
    assert model.describe_target(torch.tensor([1.0, NAN, 2.0])) == "width 1, height ?, age 2"
    assert model.describe_target(None) == ""


def test_drawings_say_what_is_far_off() -> None:
    model, image = head(1), torch.zeros(1, 40, 80, dtype=torch.uint8)
    model.fit_targets([torch.tensor([0.0]), torch.tensor([20.0])])  # a deviation of 10

    def strip(*arguments: Any) -> list[int]:
        drawing = model.draw(image, *arguments)
        assert drawing.dtype == torch.uint8 and drawing.shape[0] == 3 and drawing.shape[1] > 160
        return drawing[:, -1, -1].tolist()

    prediction = {"values": torch.tensor([15.0])}
    assert strip(prediction, torch.tensor([6.0])) == list(GOOD) == strip(prediction)
    assert strip(prediction, torch.tensor([4.0])) == list(BAD)
    assert model.draw(image, None).shape == (3, 160, 320)


def test_unknown_loss() -> None:
    with pytest.raises(UserError, match=r"heads.regression.loss=poisson: write one of mse, l1, huber, or a module"):
        head(loss="poisson")
