"""A frozen stage is frozen: parameters and BatchNorm buffers unchanged, train and eval outputs equal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from test_finetuner import batch, loader, make, state, trainer
from torch import nn

from visiontune.data import TaskInfo
from visiontune.data.targets import LabelMap
from visiontune.models.heads import SegmentationHead
from visiontune.strategies import Full, GradualUnfreeze, LinearProbe
from visiontune.strategies.freezing import average_batchnorm, batchnorm_buffers, freeze


class Watch(L.Callback):
    """After each training epoch: the state, and whether each stage's outputs are what evaluation gives."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.modes: list[dict[str, bool]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(state(pl_module))
        stages = pl_module.stages()
        self.modes.append(
            {name: any(m.training for part in stage.children() for m in part.modules()) for name, stage in stages}
        )


def fit(folder: Path, strategy: Any, epochs: int) -> tuple[dict[str, torch.Tensor], Watch, Any]:
    model, watch = make(strategy=strategy, epochs=epochs, lr=0.5), Watch()
    before = state(model)
    # A validation between the epochs: the Trainer calls train() on everything after it.
    trainer(folder, epochs, callbacks=[watch]).fit(model, loader(batch(8, 1), batch(8, 2)), loader(batch(4, 3)))
    return before, watch, model


def changed(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_the_probe_changes_the_head_alone(tmp_path: Path) -> None:
    before, watch, model = fit(tmp_path, LinearProbe, 2)
    head = {"heads.colour.linear.weight", "heads.colour.linear.bias"}
    assert changed(before, watch.states[0]) == changed(watch.states[0], watch.states[1]) == head
    assert watch.modes == [{"block1": False, "block2": False, "heads": True}] * 2
    image = batch(8, 5)["image"]
    model.train()
    freeze(model.stages(), LinearProbe(["block1", "block2", "heads"], 1), 0)
    in_training = model.backbone(image).embedding
    assert not in_training.requires_grad  # no graph is built through what is frozen
    model.eval()
    assert torch.equal(in_training, model.backbone(image).embedding)


@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_what_is_unfrozen_changes_and_the_rest_does_not(tmp_path: Path, batchnorm: str) -> None:
    def strategy(**kw: Any) -> GradualUnfreeze:
        return GradualUnfreeze(**kw, schedule={"block2": 1}, batchnorm=batchnorm)

    before, watch, _ = fit(tmp_path, strategy, 2)
    head = {"heads.colour.linear.weight", "heads.colour.linear.bias"}
    assert changed(before, watch.states[0]) == head
    norm = "backbone.model.block2.norm1."
    weights = {"backbone.model.block2.conv1.weight", f"{norm}weight", f"{norm}bias"}
    statistics = {f"{norm}{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    expected = head | weights | (statistics if batchnorm == "train" else set())
    assert changed(watch.states[0], watch.states[1]) == expected


def test_everything_may_train(tmp_path: Path) -> None:
    def strategy(**kw: Any) -> Full:
        return Full(**kw, batchnorm="train")

    before, watch, _ = fit(tmp_path, strategy, 1)
    assert set(before) - changed(before, watch.states[0]) == {"backbone.mean", "backbone.std"}


def test_a_frozen_stage_has_no_dropout() -> None:
    stages = [("a", nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))), ("heads", nn.Dropout(0.5))]
    for _, stage in stages:
        stage.train()
    names = ["a", "heads"]
    freeze(stages, LinearProbe(names, 1), 0)
    x = torch.randn(32, 4)
    assert torch.equal(stages[0][1](x), stages[0][1].eval()(x))
    assert stages[1][1].training
    freeze(stages, Full(names, 1), 0)  # unfrozen: dropout is on again, the statistics stay
    assert [m.training for m in stages[0][1].children()] == [True, False]
    freeze(stages, Full(names, 1, batchnorm="train"), 0)
    assert [m.training for m in stages[0][1].children()] == [True, True]


def test_the_statistics_that_ranks_average() -> None:
    norm, without = nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)
    assert norm.running_mean is not None and norm.running_var is not None
    found = batchnorm_buffers(nn.Sequential(norm, without, nn.LayerNorm(3)))
    assert [id(buffer) for buffer in found] == [id(norm.running_mean), id(norm.running_var)]


def test_batchnorm_in_a_head_is_averaged_over_ranks_and_frozen_with_the_head() -> None:
    model = make()
    options: Any = {"decoder": "fcn", "norm": "batch", "auxiliary": 0.5}
    head = SegmentationHead(model.backbone.shape, TaskInfo("segmentation", ["ground", "tree"]), **options)
    model.heads["forest"] = head  # type: ignore[index]
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2  # of the decoder and of the auxiliary classifier

    def step() -> None:
        image = torch.rand(2, 3, 16, 16)
        head.loss(head(model.backbone(image)), [LabelMap(torch.zeros(16, 16, dtype=torch.uint8))] * 2)

    before = state(model)
    model.train()
    freeze(model.stages(), LinearProbe([name for name, _ in model.stages()], 1), 0)
    step()
    statistics = {f"heads.forest.{name}" for name, _ in head.named_buffers() if "class_weights" not in name}
    assert changed(before, state(model)) == statistics and len(statistics) == 6
    # The other of two ranks has means and variances of 0.
    seen = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    average_batchnorm(
        SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=lambda x, reduce_op: x / 2)),  # type: ignore[arg-type]
        model,
    )
    for norm, mean in zip(norms, seen, strict=True):
        assert norm.running_mean is not None and mean.any()
        torch.testing.assert_close(norm.running_mean, mean / 2)
    before = state(model)
    freeze(model.stages(), SimpleNamespace(trainable=lambda epoch: set(), batchnorm="train"), 0)  # type: ignore[arg-type]
    step()
    assert changed(before, state(model)) == set()
