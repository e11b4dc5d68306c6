"""Zeros in the weights, before and after training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from visiontune.callbacks import KeepZeros
from visiontune.compression import Prune, Sparsify
from visiontune.compression.sparsify import KEEP, layer_weights, zero_smallest
from visiontune.compression.step import source_config
from visiontune.config.derive import derive
from visiontune.errors import UserError
from visiontune.runs import RunDirectory
from visiontune.training.load import load_model


def zeros(run: RunDirectory) -> dict[str, torch.Tensor]:
    model, _ = load_model(run, run.read_config())
    return {name: weight == 0 for name, weight in model.backbone.named_parameters() if weight.ndim > 1}


def test_the_smallest_weights_become_zero() -> None:
    weights = [torch.tensor([[0.1, -0.9], [0.5, 0.02]]), torch.tensor([-0.3, 0.01, 4.0, 0.7])]
    zero_smallest(weights, 0.5)
    assert weights[0].tolist() == [[0.0, pytest.approx(-0.9)], [0.5, 0.0]]
    assert weights[1].tolist() == [0.0, 0.0, 4.0, pytest.approx(0.7)]


def test_biases_scales_and_embeddings_stay() -> None:
    attention = nn.MultiheadAttention(4, 2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Embedding(5, 4), attention)
    ids = {id(weight) for weight in layer_weights(network)}
    conv: Any = network[0]
    assert ids == {id(conv.weight), id(attention.in_proj_weight), id(attention.out_proj.weight)}


@pytest.mark.parametrize(("scope", "share"), [("global", None), ("layer", 0.75)])
def test_a_sparse_run_has_the_share(scope: str, share: float | None, run: RunDirectory, tmp_path: Path) -> None:
    result = Sparsify(0.75, scope).apply(run, tmp_path / "sparse")
    masks = zeros(result)
    count = sum(int(where.sum()) for where in masks.values())
    assert count == round(0.75 * sum(where.numel() for where in masks.values()))
    if share:
        assert {round(float(where.float().mean()), 2) for where in masks.values()} == {share}
    assert source_config(result).overrides[-1] == KEEP and result.read_status()["status"] == "finished"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.slow
def test_zeros_stay_through_training(optimizer: str, run: RunDirectory, command: Any, tmp_path: Path) -> None:
    """With a weight average, weight decay, momentum, and a resumed run."""
    sparse = Sparsify(0.6).apply(run, tmp_path / "sparse")
    keys = [f"data.root={run.read_config().data.root}", "data=image_folder", "data.image_size=16", "data.num_workers=0"]
    keys += [
        f"weights_from={sparse.path}",
        "trainer=cpu",
        "epochs=1",
        "logger=none",
        "data.batch_size=8",
        "probe=false",
    ]
    keys += [f"optimizer={optimizer}", "optimizer.lr=0.01", "strategy=full", KEEP]
    trained = command("train", *keys, f"run_dir={tmp_path / 'trained'}").run
    trained = command("train", f"run={trained.path}", "epochs=2").run
    before, after = zeros(sparse), zeros(trained)
    assert all(torch.equal(after[name], where) for name, where in before.items())
    last = torch.load(trained.checkpoint("last"), weights_only=True)["current_model_state"]
    assert all(bool((last[f"backbone.{name}"][where] == 0).all()) for name, where in before.items())
    old, new = (load_model(r, r.read_config())[0] for r in (sparse, trained))
    assert max(float((a - b).abs().max()) for a, b in zip(old.parameters(), new.parameters(), strict=True)) > 1e-3


def test_the_positions_of_zeros_are_checkpointed() -> None:
    """A weight that is zero by chance when a run resumes still trains."""
    backbone = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        backbone[0].weight[0, 1] = 0.0
        backbone[1].weight.fill_(0.0)  # zero from the start, as in an adapter
    module: Any = SimpleNamespace(backbone=backbone)
    callback = KeepZeros()
    callback.on_train_start(SimpleNamespace(ckpt_path=None), module)  # type: ignore[arg-type]
    again = KeepZeros()
    again.load_state_dict(callback.state_dict())
    with torch.no_grad():
        backbone[0].weight[1, 2] = 0.0
    again.on_train_start(SimpleNamespace(ckpt_path="last.ckpt"), module)  # type: ignore[arg-type]
    for parameter in backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    again.on_before_optimizer_step(SimpleNamespace(), module, None)  # type: ignore[arg-type]
    assert backbone[0].weight.grad is not None and backbone[0].weight.grad.tolist() == [[1, 0, 1], [1, 1, 1]]
    assert backbone[1].weight.grad is not None and bool((backbone[1].weight.grad == 1).all())


@pytest.mark.parametrize(("amount", "scope"), [(0, "global"), (80, "global"), (0.8, "everywhere")])
def test_bad_arguments(amount: float, scope: str) -> None:
    with pytest.raises(UserError, match=f"sparsify amount={amount} scope={scope}: write an amount between 0 and 1"):
        Sparsify(amount, scope)


def test_a_quantized_run_is_refused(run: RunDirectory) -> None:
    cfg = source_config(run)
    cfg = derive(cfg, {"backend": "onnx"})
    for step in (Sparsify(0.5), Prune(macs=0.5)):
        with pytest.raises(UserError, match=r"the run is already quantized: .* needs the run that it was made from"):
            step.check(cfg)
