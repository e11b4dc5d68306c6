"""The dense head: its metrics against plain NumPy and torchmetrics' own, and that it restores images."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from drawn_scenes import evaluated, overfit, scenes, tiny
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from torchvision import tv_tensors

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.backbones import Backbone
from visiontune.models.features import Features, FeatureShape
from visiontune.models.heads import DenseHead

RGB, DEPTH = ["red", "green", "blue"], ["depth"]
NAN = float("nan")


def head(channels: list[str] = RGB, in_channels: int = 3, **options: Any) -> DenseHead:
    torch.manual_seed(0)
    shape = FeatureShape([8, 16], [4, 8], 16, in_channels)
    return DenseHead(shape, TaskInfo("dense", channels), **{"channels": 16, "detail": 8} | options)


def random_images(*sizes: tuple[int, int], seed: int = 0, channels: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.rand(channels, *size, generator=draw) for size in sizes]


# ---- metrics


def test_metrics_are_of_the_whole_split() -> None:
    sizes = [(16, 20), (40, 12), (8, 30)]
    truth, found = random_images(*sizes), random_images(*sizes, seed=1)
    found = [0.9 * t + 0.1 * f for t, f in zip(truth, found, strict=True)]
    found[0] = truth[0].clone()  # its own PSNR would be infinite
    truth[2] = tv_tensors.Image((truth[2] * 255).round().to(torch.uint8))
    metrics = head().metrics()
    for part in (slice(0, 2), slice(2, 2), slice(2, 3)):
        metrics.update([{"image": image} for image in found[part]], truth[part])
    values = metrics.compute()
    plain = [*truth[:2], truth[2].as_subclass(Tensor) / 255]
    error = torch.cat([(f - t).flatten() for f, t in zip(found, plain, strict=True)]).double().numpy()
    mse = float(np.mean(error**2))
    assert float(values["mae"]) == pytest.approx(np.mean(np.abs(error)), rel=1e-5)
    assert float(values["rmse"]) == pytest.approx(math.sqrt(mse), rel=1e-5)
    assert float(values["psnr"]) == pytest.approx(10 * math.log10(1 / mse), rel=1e-5)
    each = [float(ssim(f[None], t[None], data_range=1.0)) for f, t in zip(found[:2], plain[:2], strict=True)]
    assert float(values["ssim"]) == pytest.approx(np.mean(each), rel=1e-5)  # the third is too small to have one
    model = head()
    assert set(values) | {"loss"} == set(model.directions) and model.monitor == "psnr"
    assert model.score(values) == values["ssim"] and float(model.score({"ssim": torch.tensor(-0.2)})) == 0.0


def test_what_is_unknown_does_not_count() -> None:
    (truth,), (found,) = random_images((16, 16)), random_images((16, 16), seed=1)
    holes = truth.clone()
    holes[:, 4:9, 3:12] = NAN
    metrics = head().metrics()
    metrics.update([{"image": found}], [holes])
    values = metrics.compute()
    known = ~holes.isnan()
    assert float(values["mae"]) == pytest.approx(float((found - truth)[known].abs().mean()), rel=1e-5)
    assert float(values["psnr"]) == pytest.approx(-10 * math.log10(float((found - truth)[known].square().mean())))
    assert float(values["ssim"]) == pytest.approx(
        float(ssim(found[None], torch.where(known, truth, found)[None], data_range=1.0))
    )
    given = found[None].clone().requires_grad_()
    loss = head(loss="mse").loss({"image": given}, [holes])["loss"]
    assert loss.item() == pytest.approx(float((found - truth)[known].square().mean()), rel=1e-5)
    loss.backward()
    assert given.grad is not None and torch.equal(given.grad[0] != 0, known)


# ---- losses


@pytest.mark.parametrize(("loss", "reference"), [("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", F.huber_loss)])
def test_losses(loss: str, reference: Any) -> None:
    truth, found = torch.stack(random_images(*[(6, 8)] * 3)), torch.stack(random_images(*[(6, 8)] * 3, seed=1))
    model = head(loss=loss)
    assert float(model.loss({"image": found}, list(truth))["loss"]) == pytest.approx(float(reference(found, truth)))
    each = model.sample_loss({"image": found}, [truth[0], None, tv_tensors.Image((truth[2] * 255).to(torch.uint8))])
    assert each.isnan().tolist() == [False, True, False]
    assert float(each[0]) == pytest.approx(float(reference(found[0], truth[0])))
    assert float(each[2]) == pytest.approx(float(reference(found[2], (truth[2] * 255).floor() / 255)), rel=1e-5)
    # In units of the range, whatever the user's units are.
    metres = head(loss=loss, range=[-2, 8])
    assert float(metres.loss({"image": found}, list(truth * 10 - 2))["loss"]) == pytest.approx(
        float(reference(found, truth)), rel=1e-4
    )


@pytest.mark.parametrize("targets", [[None, None], [torch.full((3, 6, 8), NAN), None]])
def test_nothing_known_is_a_zero_on_the_graph(targets: list[Any]) -> None:
    given = torch.rand(2, 3, 6, 8).requires_grad_()
    loss = head().loss({"image": given}, targets)["loss"]
    assert loss.item() == 0.0
    loss.backward()
    assert given.grad is not None and bool((given.grad == 0).all())


# ---- images in, images out


def test_a_residual_begins_at_the_input() -> None:
    images, _ = scenes(2, side=32)
    backbone = tiny()
    for extent in ([0, 1], [-1, 3]):
        model = DenseHead(backbone.shape, TaskInfo("dense", RGB), channels=16, residual=True, range=extent)
        raw = model(backbone(images))
        for prediction, image in zip(model.decode(raw, [Frame.whole(32, 32)] * 2), images, strict=True):
            torch.testing.assert_close(prediction["image"], image)
        assert model.loss(raw, list(images))["loss"].requires_grad


def test_decoding_leads_back_to_the_image_and_into_the_range() -> None:
    raw = {"image": torch.stack(random_images((8, 8), (8, 8), channels=1)) * 3 - 1}
    frames = [Frame.whole(8, 8), Frame((20, 10), (1, 0, 6, 8))]
    metres, free = head(DEPTH, range=[1, 5]), head(DEPTH, range=None)
    assert free.monitor == "rmse" and set(free.directions) == {"mae", "rmse", "loss"}
    metrics = free.metrics()
    metrics.update([{"image": torch.ones(1, 4, 4)}], [torch.zeros(1, 4, 4)])
    assert {name: float(value) for name, value in metrics.compute().items()} == {"mae": 1.0, "rmse": 1.0}
    for x, frame, clipped, open_ in zip(
        raw["image"], frames, metres.train().decode(raw, frames), free.eval().decode(raw, frames), strict=True
    ):
        torch.testing.assert_close(open_["image"], frame.pixels(x))
        torch.testing.assert_close(clipped["image"], (frame.pixels(x) * 4 + 1).clamp(1, 5))
        assert clipped["image"].shape == (1, *frame.size)
    assert float(free.score({"rmse": torch.tensor(3.0)})) == 0.25
    for one, other in zip(metres.decode(raw, frames), metres.eval().decode(raw, frames), strict=True):
        assert torch.equal(one["image"], other["image"])


def restorer() -> tuple[DenseHead, Backbone]:
    backbone = tiny()
    return DenseHead(backbone.shape, TaskInfo("dense", RGB), channels=32, detail=16, residual=True), backbone


@pytest.mark.slow
def test_learns_eight_images_by_heart() -> None:
    model, backbone = restorer()
    images, targets = scenes(8, side=32, noise=0.03)
    assert evaluated(model.eval(), backbone.eval(), images, targets["dense"])["ssim"] < 0.8
    found = overfit(model.train(), backbone.train(), "dense", 250, lr=0.003, side=32, noise=0.03)
    assert found["ssim"] >= 0.93  # 0.946 and 0.951 on two kinds of CPU


@pytest.mark.slow
def test_removes_noise_from_images_it_has_not_seen() -> None:
    model, backbone = restorer()
    images, targets = scenes(8, seed=5, side=32)
    before = evaluated(model.eval(), backbone.eval(), images, targets["dense"])["psnr"]
    assert before == pytest.approx(20.7, abs=0.3)
    overfit(model.train(), backbone.train(), "dense", 60, lr=0.003, side=32)
    after = evaluated(model.eval(), backbone.eval(), images, targets["dense"])["psnr"]
    assert after > before + 2.5  # 2.9 and 3.1 on two kinds of CPU


# ---- words and images


def test_predictions_in_words() -> None:
    image = torch.stack([torch.full((4, 4), value) for value in (0.5, 0.25, 1.0)])
    text, score = head().describe({"image": image})
    assert text == "mean red 0.5, green 0.25, blue 1" and math.isnan(score)
    assert (
        head().describe_target(tv_tensors.Image((image * 255).to(torch.uint8))) == "mean red 0.498, green 0.247, blue 1"
    )
    assert head(DEPTH).describe_target(torch.tensor([[[NAN, 12.0]]])) == "mean depth 12"
    assert head().describe_target(None) == ""


def test_images() -> None:
    (found,) = random_images((40, 60))
    image = torch.full((3, 40, 60), 128, dtype=torch.uint8)
    saved = head().images({"image": found})
    assert list(saved) == ["output"] and torch.equal(saved["output"], (found * 255).round().to(torch.uint8))
    depth = torch.tensor([[[1.0, 2.0, 3.0], [NAN, 6.0, 1.0]]])
    assert head(DEPTH, range=[1, 6]).images({"image": depth})["output"].tolist() == [[[0, 51, 102], [0, 255, 0]]]
    assert head(DEPTH, range=None).images({"image": depth})["output"].tolist() == [[[0, 51, 102], [0, 255, 0]]]
    flow = head(["x", "y"], range=[-1, 1]).images({"image": torch.tensor([[[-1.0]], [[1.0]]])})
    assert {name: part.tolist() for name, part in flow.items()} == {"x": [[[0]]], "y": [[[255]]]}
    all_three = head().draw(image, {"image": found}, tv_tensors.Image(image))
    assert all_three.dtype == torch.uint8 and all_three.shape[0] == 3 and all_three.shape[2] >= 3 * 240
    assert head().draw(image, None).shape[2] < 300


def test_values_are_not_rounded_in_mixed_precision() -> None:
    """bf16 has steps of 0.5 at 80."""
    dense = head(DEPTH, range=None, residual=False)
    with torch.no_grad():
        dense.last.bias.fill_(80.3)
        dense.last.weight.zero_()
    maps = [torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        features = Features(maps, lambda: torch.rand(1, 16), (32, 32))
        features.image = torch.rand(1, 3, 32, 32)
        raw = dense(features)
    assert torch.allclose(raw["image"], torch.tensor(80.3))


def test_options_that_make_no_sense() -> None:
    for channels, options, message in (
        (RGB, {"loss": "hinge"}, "heads.dense.loss=hinge: write one of l1, mse, huber, or a module"),
        (DEPTH, {"residual": True}, "which has 3 channels, and the target has 1; write heads.dense.residual=false"),
        (RGB, {"range": [1, 0]}, r"heads.dense.range=\[1, 0\]: write two rising numbers"),
        (RGB, {"range": 1}, r"heads.dense.range=1: write two rising numbers"),
        (RGB, {"decoder": "psp"}, "decoder=psp: write one of"),
    ):
        with pytest.raises(UserError, match=message):
            head(channels, **options)  # type: ignore[arg-type]
    assert head(DEPTH, in_channels=1, residual=True).residual
