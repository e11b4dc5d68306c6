"""What a strategy says does not train stays as it was, by value: weights, statistics, and outputs in training mode."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import every_strategy
import lightning as L
import pytest
import torch
from omegaconf import DictConfig
from running import Command, mostly_slow
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.models.backbones import build
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import ClassificationHead
from visiontune.optim import schedulers
from visiontune.strategies import Strategy
from visiontune.training.fit import prepare

EPOCHS = 4
# Under a head of classification head_only is linear_probe.
STRATEGIES = {name: strategy for name, strategy in every_strategy.STRATEGIES.items() if name != "head_only"}
BACKBONES: dict[str, dict[str, Any]] = {
    "small_cnn": {"widths": [4, 8], "depth": 1},
    "resnet18": {},
    "test_vit": {},
    "test_convnext": {},
}


def make(backbone: str, strategy: Any, **options: Any) -> FineTuner:
    torch.manual_seed(0)
    network, _ = build(backbone, weights=None, image_size=160 if "vit" in backbone else 32, **BACKBONES[backbone])
    names = [*(name for name, _ in network.stages()), "heads"]
    made: Strategy = strategy(stages=names, epochs=EPOCHS)
    made.prepare(network.model)
    heads = {"kind": ClassificationHead(network.shape, TaskInfo("classification", ["a", "b"]), dropout=0.2)}
    settings = {"optimizer": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)} | options
    return FineTuner(network, heads, scheduler=partial(schedulers.constant), strategy=made, **settings)


def batches(backbone: str) -> DataLoader:
    side, draw = 160 if "vit" in backbone else 32, torch.Generator().manual_seed(0)
    one = {
        "image": torch.rand(4, 3, side, side, generator=draw),
        "targets": {"kind": [0, 1, 0, 1]},
        "truth": {"kind": [0, 1, 0, 1]},
        "frame": [Frame.whole(side, side)] * 4,
        "index": torch.arange(4),
        "path": list("abcd"),
        "size": torch.tensor([[side, side]] * 4),
    }
    return DataLoader([one, one], batch_size=None)  # type: ignore[arg-type]


class Watch(L.Callback):
    """Compares every tensor before and after each epoch with what the strategy said of it."""

    def __init__(self) -> None:
        self.moved: set[str] = set()
        self.epochs = 0

    @staticmethod
    def tensors(model: FineTuner) -> dict[str, tuple[str, nn.Module, str, torch.Tensor, bool]]:
        found = {}
        for stage, module in model.stages():
            for path, part in module.named_modules():
                for kind in (part.named_parameters, part.named_buffers):
                    for own, tensor in kind(recurse=False):
                        key = f"{stage}/{path}.{own}"
                        found[key] = (stage, part, own, tensor.detach().clone(), isinstance(tensor, nn.Parameter))
        return found

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.before = self.tensors(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        strategy, after = pl_module.strategy, self.tensors(pl_module)
        trainable = strategy.trainable(trainer.current_epoch)
        for key, (stage, part, own, tensor, is_parameter) in after.items():
            same = torch.equal(tensor, self.before[key][3])
            picked = stage == "heads" or (is_parameter and strategy.trains_parameter(part, own))
            assert same or (stage in trainable and picked), key
            if not same:
                self.moved.add(key)
        image = next(iter(batches_of(trainer)))["image"]
        for stage, module in pl_module.stages():
            parts = [part for part in module.children() if not isinstance(part, _BatchNorm)]
            assert {part.training for part in parts} <= {stage in trainable}
        frozen = {stage for stage, _ in pl_module.stages()} - trainable
        if len(frozen) == len(pl_module.stages()) - 1:  # the whole backbone: training mode gives evaluation's outputs
            with torch.no_grad():
                now = pl_module.backbone(image).embedding
                modes = [module.training for module in pl_module.backbone.modules()]
                then = pl_module.backbone.eval()(image).embedding
            assert torch.equal(now, then)
            for module, mode in zip(pl_module.backbone.modules(), modes, strict=True):
                module.training = mode
        self.epochs += 1


def batches_of(trainer: L.Trainer) -> Any:
    return trainer.train_dataloader


def fit(model: FineTuner, backbone: str, **options: Any) -> Watch:
    watch = Watch()
    L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        **options,
    ).fit(model, batches(backbone))
    assert watch.epochs == EPOCHS
    return watch


# Every strategy on a small network, and two that freeze within stages or epoch by epoch on the others.
QUICK = [
    *product(STRATEGIES, ["small_cnn"]),
    *product(["gradual_unfreeze", "lora"], BACKBONES),
]


@pytest.mark.parametrize(("name", "backbone"), mostly_slow(product(STRATEGIES, BACKBONES), *QUICK))
def test_frozen_is_frozen_and_the_rest_moves(name: str, backbone: str) -> None:
    model = make(backbone, STRATEGIES[name])
    watch = fit(model, backbone)
    expected = {
        key
        for key, (stage, part, own, _, is_parameter) in Watch.tensors(model).items()
        if is_parameter
        and any(stage in model.strategy.trainable(epoch) for epoch in range(EPOCHS))
        and (stage == "heads" or model.strategy.trains_parameter(part, own))
    }
    parameters = {key for key, (*_, is_parameter) in Watch.tensors(model).items() if is_parameter}
    still = expected - watch.moved
    assert watch.moved & parameters <= expected
    # A bias before a BatchNorm, or an attention's of the keys, has no gradient but rounding.
    assert len(still) <= 0.1 * len(expected), still


@pytest.mark.parametrize("name", ["full", "lora", "norm_only"])
def test_compiled_it_is_frozen_too_and_has_the_same_keys(name: str) -> None:
    model = make("small_cnn", STRATEGIES[name])
    keys = list(model.state_dict())
    model.backbone.compile(backend="eager")
    fit(model, "small_cnn")
    assert list(model.state_dict()) == keys


HEADS = ["detection", "segmentation", "dense", "regression", "multilabel", "instances", "multitask"]


@pytest.mark.parametrize("head", mostly_slow(HEADS, "multilabel"))
def test_under_every_head(head: str, command: Command, config: Callable[..., DictConfig], small: list[str]) -> None:
    settings = [
        *small, "data=digit_scenes", f"heads={head}", "data.scenes=20", "data.image_size=64", "data.batch_size=4",
        "backbone.widths=[4,8,8,8]", "strategy=last_k", "strategy.k=1", "trainer.max_epochs=2", "logger=none",
        "trainer.limit_val_batches=1", "test=false", "name=heads",
    ]  # fmt: skip
    _, model, _ = prepare(config(*settings, base=[]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.load(command("train", *settings).run.checkpoint("last"), weights_only=True)["current_model_state"]
    moved = {name for name in before if not torch.equal(before[name], state[name])}
    frozen = tuple(f"backbone.model.block{i}." for i in (1, 2, 3))
    assert not [name for name in moved if name.startswith(frozen)]
    assert {name for name, _ in model.backbone.named_parameters() if "block4" in name} <= {
        name.removeprefix("backbone.") for name in moved
    }
    assert any(name.startswith("heads.") for name in moved)
