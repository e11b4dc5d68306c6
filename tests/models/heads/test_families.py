"""What the heads have in common: they train on every family of backbones, and two processes measure what one does."""

import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from drawn_scenes import CLASSES, scenes
from torch import Tensor, nn

from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.models.backbones import Backbone, build
from visiontune.models.features import FeatureShape
from visiontune.models.heads import (
    ClassificationHead,
    DenseHead,
    Head,
    MultilabelHead,
    RegressionHead,
    SegmentationHead,
)
from visiontune.models.heads.extra_metrics import build_extra_metrics, build_metrics
from visiontune.models.heads.metrics import name_scalars

FAMILIES = ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224", "swin_t"]
KINDS = ["segmentation", "dense", "regression", "multilabel"]
CLASS_NAMES = {
    "segmentation": CLASSES,
    "dense": ["red", "green", "blue"],
    "regression": ["red", "green"],
    "multilabel": CLASSES[1:],
    "classification": CLASSES,
}


def head_of(kind: str, shape: FeatureShape) -> Head:
    torch.manual_seed(0)
    info = TaskInfo(kind, CLASS_NAMES[kind])
    if kind == "segmentation":
        return SegmentationHead(shape, info, channels=16)
    if kind == "dense":
        return DenseHead(shape, info, channels=16, detail=8, residual=True)
    if kind == "regression":
        return RegressionHead(shape, info)
    if kind == "multilabel":
        return MultilabelHead(shape, info)
    return ClassificationHead(shape, info)


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    def normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *_: object, **__: object) -> Tensor:
        return nn.init.normal_(tensor, mean, std)

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "trunc_normal_", normal)  # exact truncation takes seconds
        yield build(request.param, weights=None, image_size=64)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_takes_a_training_step_on_every_family(backbone: Backbone, kind: str) -> None:
    images, targets = scenes(2)
    head = head_of(kind, backbone.shape)
    head.fit_targets(targets[kind])
    model = nn.ModuleList([backbone, head]).train()
    model.zero_grad()
    losses = head.loss(head(backbone(images)), targets[kind])
    sum(losses.values()).backward()
    assert all(bool(value.isfinite()) for value in losses.values())
    untouched = [name for name, p in head.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
    assert untouched == []
    before = [parameter.detach().clone() for parameter in head.parameters()]
    torch.optim.AdamW(head.parameters(), lr=0.01).step()
    assert any(not torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True))
    # Evaluation decodes what it sees, as large as the images are, and scores itself.
    with torch.no_grad():
        raw = head.eval()(backbone.eval()(images))
        predictions = head.decode(raw, [Frame.whole(64, 64), Frame((30, 50), (8, 0, 48, 64))])
    metrics = head.metrics()
    metrics.update([], [])
    metrics.update(predictions[:1], targets[kind][:1])
    computed = metrics.compute()
    assert {name for name in name_scalars(computed) if "/" not in name} == set(head.directions) - {"loss"}
    assert 0 <= float(head.score(computed).nan_to_num(0.0)) <= 1
    shapes = {tuple(value.shape[-2:]) for value in predictions[1].values() if value.ndim > 1}
    assert shapes in (set(), {(30, 50)})


def test_without_any_label_nothing_pulls(backbone: Backbone) -> None:
    images, _ = scenes(1)
    backbone.eval().zero_grad()
    features = backbone(images)
    heads = [head_of(kind, backbone.shape) for kind in KINDS]
    total = torch.stack([value for head in heads for value in head.loss(head(features), [None]).values()]).sum()
    assert total.item() == 0.0 and total.requires_grad
    total.backward()
    gradients = [p.grad for module in (*heads, backbone) for p in module.parameters() if p.grad is not None]
    assert gradients and not any(bool(gradient.any()) for gradient in gradients)


# ---- two processes


def samples() -> dict[str, tuple[list[dict[str, Tensor]], list[Any]]]:
    """Predictions that are often right, and the truth, of seven samples of every kind."""
    images, targets = scenes(7)
    draw = torch.Generator().manual_seed(3)
    wrong = torch.randint(4, (7, 64, 64), generator=draw, dtype=torch.uint8)
    maps = [
        torch.where(w == 0, w, t).clamp_max(3) for w, t in zip(wrong, torch.stack(targets["segmentation"]), strict=True)
    ]
    scores = torch.rand(7, 4, generator=draw).softmax(1)
    values = torch.stack(targets["regression"]) + 50 * torch.randn(7, 2, generator=draw)
    return {
        "segmentation": ([{"map": labels} for labels in maps], targets["segmentation"]),
        "dense": ([{"image": image} for image in images], targets["dense"]),
        "regression": ([{"values": value} for value in values], targets["regression"]),
        "multilabel": ([{"scores": score[:3]} for score in scores], targets["multilabel"]),
        "classification": ([{"scores": score} for score in scores], [0, 1, 2, 3, 0, 1, 2]),
    }


# One extra metric of each head: with counts, with lists of samples as its state, and with a value a class.
EXTRA: dict[str, dict[str, Any]] = {
    "classification": {
        "ap": {"metric": {"_target_": "torchmetrics.AveragePrecision", "task": "multiclass", "average": "none"}}
    },
    "multilabel": {"hamming": {"metric": {"_target_": "torchmetrics.HammingDistance", "task": "multilabel"}}},
    "regression": {"rank": {"metric": {"_target_": "torchmetrics.SpearmanCorrCoef"}}},
    "segmentation": {"kappa": {"metric": {"_target_": "torchmetrics.CohenKappa", "task": "multiclass"}}},
    "dense": {"error": {"metric": {"_target_": "torchmetrics.MeanSquaredError"}, "direction": "min"}},
}


def measured(kind: str, batches: list[slice]) -> dict[str, Tensor]:
    predictions, truth = samples()[kind]
    head = head_of(kind, FeatureShape([8, 8], [4, 8], 8))
    head.add_metrics(build_extra_metrics(EXTRA[kind], CLASS_NAMES[kind], head.metric_arguments, "metrics"))
    metrics: Any = build_metrics(head)
    for part in batches:
        metrics.update(predictions[part], truth[part])
    return name_scalars(metrics.compute())


@pytest.mark.parametrize("kind", [*KINDS, "classification"])
def test_a_split_without_labels_has_no_numbers(kind: str) -> None:
    found = measured(kind, [slice(0, 0), slice(0, 0)])
    names = set(head_of(kind, FeatureShape([8], [4], 8)).directions) | {*EXTRA[kind]}
    assert {name for name in found if "/" not in name} >= names - {"loss"}
    assert all(bool(value.isnan()) for value in found.values())


# Which samples each of two processes sees; in the second case one of them has no labelled sample at all.
SHARES = {"unequal": [[slice(0, 3), slice(3, 5)], [slice(5, 7)]], "empty": [[slice(0, 4), slice(4, 7)], [slice(0, 0)]]}


def run_rank(rank: int, port: int, folder: Path) -> None:
    wait = timedelta(minutes=5)  # two processes import torch on a busy machine
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=wait)
    try:
        found = {(kind, case): measured(kind, shares[rank]) for case, shares in SHARES.items() for kind in samples()}
    finally:
        dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = mp.get_context("spawn").Process(target=run_rank, args=(1, port, tmp_path), daemon=True)
    other.start()
    run_rank(0, port, tmp_path)
    other.join()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for kind in samples():
        alone = measured(kind, [slice(0, 7)])
        for case in SHARES:
            for values in (found[0][kind, case], found[1][kind, case]):
                for name, value in alone.items():
                    torch.testing.assert_close(values[name], value, equal_nan=True, msg=f"{kind} {case} {name}")
