"""A backbone that is trained through the rounding of 8 bits, and what it is rounded to."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import TINY, Command, mostly_slow
from torch import nn

from visiontune.callbacks import QuantizationAware, quantization_aware
from visiontune.callbacks.quantization_aware import FakeQuantized
from visiontune.errors import UserError
from visiontune.models.backbones import Backbone, build

QAT = "+callbacks.quantization_aware._target_=visiontune.callbacks.QuantizationAware"


def network(name: str = "small_cnn", size: int = 32, **options: Any) -> Backbone:
    torch.manual_seed(0)
    backbone, _ = build(name=name, weights=None, in_channels=3, image_size=size, **options)
    for module in backbone.modules():  # as in a trained one
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return backbone.eval()


def seen(backbone: Backbone, image: torch.Tensor, bits: int = 8) -> FakeQuantized:
    """Its ranges are of one batch."""
    rounded = FakeQuantized(backbone, (image.shape[2], image.shape[3]), bits)
    rounded(image)
    rounded.observe(False)
    return rounded


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 63)])
def test_what_a_layer_is_rounded_to(bits: int, most: int) -> None:
    """By hand, for a convolution: a scale a channel for the weight, one for what comes in, where 0 is 0."""
    backbone = network(widths=[4], depth=1, norm="none")
    image = torch.rand(2, 3, 32, 32) - 0.25
    rounded = seen(backbone, image, bits)
    weight: Any = backbone.model.block1.conv1.weight  # type: ignore[union-attr]
    low, high = (weight.detach().flatten(1).aminmax(dim=1)[i].view(-1, 1, 1, 1) for i in (0, 1))
    scale = torch.maximum(-low / (most + 1), high / most)
    step = (image.max() - image.min()) / 255
    zero = (-image.min() / step).round()
    of_input, of_weight = sorted(rounded.places.values(), key=lambda place: place.is_per_channel)
    torch.testing.assert_close(of_weight(weight), (weight / scale).round().clamp(-most - 1, most) * scale)
    expected = ((image / step + zero).round().clamp(0, 255) - zero) * step
    torch.testing.assert_close(of_input(image), expected, atol=float(step) * 1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "size", "apart"),
    mostly_slow(
        [
            ("small_cnn", 32, 0.03),
            ("resnet18", 64, 0.03),
            ("convnext_atto", 64, 0.05),
            ("vit_tiny_patch16_224", 32, 0.05),
        ],
        ("small_cnn", 32, 0.03),
    ),
)
def test_families_stay_near_themselves(name: str, size: int, apart: float) -> None:
    """Residual branches, BatchNorm with its statistics, layer norms and attention, for any number of images."""
    backbone = network(name, size)
    image = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    truth, rounded = backbone.features(image), seen(backbone, image)
    with torch.no_grad():
        found = rounded(image)
        distance = (found.embedding - truth.embedding).norm() / truth.embedding.norm()
        alone = rounded(image[:1]).embedding - found.embedding[:1]  # a sum in another order is rounded another way
        assert float(alone.norm() / truth.embedding[:1].norm()) < apart
    assert 0 < float(distance) < apart
    assert [part.shape for part in found.maps] == [part.shape for part in truth.maps]
    assert {key: value.tolist() for key, value in backbone.state_dict().items()} == {
        key: value.tolist() for key, value in before.items()
    }


def test_weights_learn_to_be_rounded() -> None:
    """Through 3 bits: trained to give what they gave in floats, the same parameters are much nearer to it."""
    backbone = network(widths=[8, 16], depth=1)
    images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = backbone.features(images).embedding.clone()
    rounded = seen(backbone, images, bits=3)
    optimizer = torch.optim.Adam(backbone.parameters(), 2e-3)
    losses = []
    for _ in range(60):
        loss = (rounded(images).embedding - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in backbone.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_ranges_are_kept() -> None:
    backbone = network(widths=[4], depth=1)
    images = torch.rand(4, 3, 32, 32)
    first, second = seen(backbone, images), seen(backbone, images * 3)
    assert not torch.equal(first(images).embedding, second(images).embedding)
    second.load(first.ranges())
    assert torch.equal(first(images).embedding, second(images).embedding)


LEARNS = [*TINY, "seed=1", "data.limit_train=null", "strategy=full", "probe=false", "augment=none"]


@pytest.fixture(scope="module")
def run(command: Command) -> Any:
    more = ["strategy.batchnorm=train", "optimizer.lr=0.02", "scheduler=one_cycle", "trainer.max_epochs=5"]
    return command("train", *LEARNS, *more).run


@pytest.mark.slow
def test_a_training(run: Any, command: Command, tmp_path: Path) -> None:
    """It is measured as rounded while it trains; what it leaves is an ordinary run in floats."""
    keys = [*LEARNS, f"weights_from={run.path}", "optimizer.lr=1e-3"]
    plain = command("train", *keys, f"run_dir={tmp_path / 'plain'}").run
    made = command("train", *keys, QAT, f"run_dir={tmp_path / 'rounded'}").run
    assert "fake-quantizes 4 tensors of small_cnn" in made.log.read_text()
    weights = [torch.load(one.checkpoint("best"), weights_only=True)["state_dict"] for one in (plain, made)]
    assert weights[0].keys() == weights[1].keys()
    rows = []
    for one in (plain, made):
        with one.history.open(newline="") as file:
            rows.append([float(row["val/loss"]) for row in csv.DictReader(file)])
    assert max(rows[0]) < 1.7
    assert all(1e-4 < abs(a - b) < 0.05 for a, b in zip(*rows, strict=True))
    assert command("evaluate", f"run={made.path}").code == 0


@pytest.mark.parametrize(
    ("keys", "write"),
    [
        ("trainer.precision=bf16-mixed", "trainer.precision=32-true"),
        ("compile=true", "compile=false"),
        ("strategy=linear_probe frozen_features.cache=memory augment=none", "frozen_features.cache=none"),
        ("strategy.batchnorm=train", "strategy.batchnorm=frozen"),
    ],
)
def test_what_it_does_not_go_with(keys: str, write: str, command: Command, tmp_path: Path) -> None:
    outcome = command("train", *TINY, "strategy=full", QAT, *keys.split(), f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 2
    assert outcome.err.endswith(f"error: QuantizationAware needs {write}\n")


def test_one_process_alone() -> None:
    """Ranges are of what a process has seen: several would validate networks of their own."""
    with pytest.raises(UserError, match=r"QuantizationAware needs trainer.devices=1"):
        QuantizationAware().setup(
            SimpleNamespace(world_size=2, precision="32-true", datamodule=SimpleNamespace(wrap_loader=None)),
            _plain_module(),
            "fit",
        )


def _plain_module() -> Any:
    return SimpleNamespace(
        backbone=SimpleNamespace(_compiled_call_impl=None), strategy=SimpleNamespace(batchnorm="frozen")
    )


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    backbone = network(widths=[4], depth=1)
    backbone.model.block1 = Asks()
    with pytest.raises(UserError, match=r"torch.export cannot follow small_cnn .*: write recipe=int8, which"):
        FakeQuantized(backbone, (32, 32))
    with pytest.raises(UserError, match=r"callbacks.quantization_aware.images=0"):
        QuantizationAware(0)
    missing: Callable[[str], Any] = lambda _: None  # noqa: E731
    monkeypatch.setattr(quantization_aware, "find_spec", missing)
    with pytest.raises(UserError, match=r"needs torchao, .*visiontune\[compress\]"):
        QuantizationAware()


def test_another_pass_has_none_of_it() -> None:
    QuantizationAware().setup(SimpleNamespace(), SimpleNamespace(), "test")
