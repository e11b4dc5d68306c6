"""Training on recorded outputs is training: the same numbers, whatever is frozen when."""

import csv
import errno
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from running import FEW, NARROW, Command

from visiontune import train
from visiontune.data import VisionData
from visiontune.data.dataset import VisionDataset
from visiontune.errors import UserError
from visiontune.frozen_features import cache as cache_module
from visiontune.frozen_features.cache import FrozenFeatureCache
from visiontune.frozen_features.store import Store
from visiontune.runs import RunDirectory
from visiontune.training.fit import prepare

EPOCHS = 5
RUN = [f"trainer.max_epochs={EPOCHS}", "data.batch_size=16", "augment=standard", "augment.flip=false", "probe=true"]
CACHED = ["frozen_features.cache=memory", "frozen_features.bits=32"]


def curves(run: RunDirectory) -> list[dict[str, float]]:
    with run.history.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds" and v} for row in csv.DictReader(file)]


def close(one: RunDirectory, other: RunDirectory, tolerance: float) -> None:
    assert len(curves(one)) == len(curves(other)) == EPOCHS + 1
    for row, expected in zip(curves(one), curves(other), strict=True):
        assert row == pytest.approx(expected, abs=tolerance, rel=tolerance, nan_ok=True)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(["strategy=linear_probe"], id="linear_probe", marks=pytest.mark.slow),
        pytest.param(["strategy=gradual_unfreeze", "strategy.unfrozen_by=0.8"], id="gradual_unfreeze"),
        pytest.param(["strategy=lp_ft", "technique=[ema,sam]"], id="lp_ft+sam", marks=pytest.mark.slow),
        pytest.param(
            ["strategy=last_k", "strategy.k=1", "trainer.accumulate_grad_batches=3"],
            id="last_k",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_equals_the_uncached_run_of_the_same_views(
    strategy: list[str], command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "report", lambda *_: None)  # half of a run this small
    arguments = [*tiny, *RUN, *strategy, "test=false"]
    plain = command("train", *arguments, "frozen_features.views=2")
    assert "computed in every epoch" in plain.out
    cached = command("train", *arguments, *CACHED)
    assert "2 views of each image, stored in memory with 32 bits" in cached.out
    close(cached.run, plain.run, 1e-5)
    half = command("train", *arguments, "frozen_features.cache=memory")
    close(half.run, plain.run, 1e-2)


def test_views_come_round_while_stages_are_frozen(config: Callable[..., DictConfig]) -> None:
    phases = ["strategy=lp_ft", "strategy.probe_epochs=0.67", "frozen_features.views=3"]
    data, _, _ = prepare(config("trainer.max_epochs=6", "augment=standard", *phases))
    assert [data.view(epoch) for epoch in range(6)] == [0, 1, 2, 0, 4, 5]
    images = [next(iter(loader_of(data, epoch)))["image"] for epoch in range(6)]
    assert torch.equal(images[0], images[3])
    assert len({tuple(image.flatten().tolist()) for image in images}) == 5


def loader_of(data: VisionData, epoch: int) -> Any:
    loader = data.train_dataloader()
    loader.batch_sampler.order = lambda _: list(range(64))
    loader.batch_sampler.set_epoch(epoch)
    return loader


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("segmentation", "dense", "detection", "multitask", "instances")
    ],
)
def test_targets_follow_the_views(
    task: str, command: Command, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "report", lambda *_: None)  # half of a run this small
    settings = [
        *small,
        *RUN,
        "data=digit_scenes",
        "data.scenes=20",
        "data.batch_size=8",
        "test=false",
        "data.image_size=64",
        f"heads={task}",
        *(f"heads.{task}.{option}" for option in NARROW.get(task, [])),
        "backbone.widths=[4,8,8,8]",
        "strategy=gradual_unfreeze",
        "strategy.unfrozen_by=0.5",
        "augment=objects",
        "logger=none",
    ]
    plain = command("train", *settings, "frozen_features.views=2").run
    close(command("train", *settings, *CACHED).run, plain, 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_the_disk_gives_the_same_bits_and_keeps_nothing(command: Command, tiny: list[str]) -> None:
    strategy = ["strategy=gradual_unfreeze", "strategy.unfrozen_by=0.8"]
    arguments = [*tiny, FEW, *RUN, *strategy]
    memory, disk = (command("train", *arguments, f"frozen_features.cache={place}").run for place in ("memory", "disk"))
    one, other = (torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in (memory, disk))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not list(disk.path.glob(".frozen*"))


def test_files_have_no_name(tmp_path: Path) -> None:
    store = Store(samples=4, bits=32, folder=tmp_path)
    store.put(0, "stem", torch.tensor([1, 2]), torch.tensor([[1.0], [2.5]]))
    assert not list(tmp_path.iterdir())  # so that a process that is killed leaves none
    assert store.get(0, "stem", torch.tensor([2, 1])).tolist() == [[2.5], [1.0]]


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"No space left on device.*frozen_features\.cache=none"):
        Store(samples=4, bits=32, folder=tmp_path).put(0, "stem", torch.tensor([1]), torch.tensor([[1.0]]))


@pytest.mark.slow
def test_images_are_loaded_once_per_view(command: Command, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    whole = VisionDataset.__getitem__
    monkeypatch.setattr(VisionDataset, "__getitem__", lambda self, key: (loaded.append(key), whole(self, key))[1])
    arguments = [*tiny, FEW, *RUN, "strategy=linear_probe", "probe=false", "~callbacks.first_batch", "test=false"]
    command("train", *arguments, *CACHED)
    cached = len(loaded)
    command("train", *arguments)
    train, val = 64, (len(loaded) - cached - EPOCHS * 64) // (EPOCHS + 2)  # before, after each epoch, and at the end
    assert cached == 2 * train + 2 * val


def build_cache(config: Callable[..., DictConfig], *overrides: str) -> FrozenFeatureCache | None:
    data, _, _ = prepare(config("trainer.max_epochs=4", "augment=none", *overrides))
    return data.wrap_loader  # type: ignore[return-value]


def test_changed_weights_are_recorded_again(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As those of a stage do that trained before it froze: its average, which is validated, goes on changing.
    cache = build_cache(
        config, "strategy=gradual_unfreeze", "strategy.schedule={block2: 2}", "frozen_features.cache=memory"
    )
    assert cache is not None and cache.frozen_counts == [2, 2, 1, 1]
    recorded: list[int] = []
    monkeypatch.setattr(cache, "_record", lambda split, view, epoch: recorded.append(epoch))

    def change(stage: str) -> None:
        for parameter in cache.model.backbone.model.get_submodule(stage).parameters():
            parameter.data += 1

    with cache.open(tmp_path):
        assert cache.prepare("val", 0) and cache.prepare("val", 0) and recorded == [0]
        change("block2")
        assert cache.prepare("val", 1) and recorded == [0, 1]
        change("block2")  # which trains now
        assert cache.prepare("val", 2) and recorded == [0, 1]
        change("block1")
        assert cache.prepare("val", 3) and recorded == [0, 1, 3]


def test_the_splits_of_the_run_count(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    cache = build_cache(config, "strategy=linear_probe", "frozen_features.cache=memory")
    assert cache is not None
    cache.data._splits["train"] = cache.data.samples("train")[:10]  # as a recorded splits.csv may have it
    with cache.open(tmp_path):
        assert cache.stores["train"].samples == 10
    assert not cache.stores  # nothing is held any longer


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["strategy=full"], "the first stage trains from the first epoch"),
        (["strategy=first_k", "strategy.k=1"], "the first stage trains"),
        (
            ["strategy=gradual_unfreeze", "strategy.patience=1", "trainer.max_epochs=3"],
            "validation scores decide when stages unfreeze",
        ),
        (["strategy=linear_probe", "augment=mixup"], "mixup and cutmix mix images"),
        (["strategy=linear_probe", "compile=true"], "compile=true"),
        (["strategy=linear_probe", "trainer=ddp_cpu", "trainer.devices=2"], "each rank gets other images"),
    ],
)
def test_the_plan_says_why_it_is_off(
    overrides: list[str], reason: str, command: Command, tiny: list[str], config: Callable[..., DictConfig]
) -> None:
    base = [*tiny, "augment=none", "frozen_features.cache=memory"]
    plan = command("plan", *base, *overrides).out
    assert "frozen stages: off: " in plan and reason in plan


def test_without_a_plan_every_epoch_has_its_own_view(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "plan_stages", lambda *_, **__: None)
    cache = build_cache(config, "strategy=linear_probe", "frozen_features.cache=memory")
    assert cache is not None and not cache.epochs
    assert [cache.data.view(epoch) for epoch in range(4)] == [0, 1, 2, 3]


def test_null_is_none(command: Command, tiny: list[str]) -> None:
    assert "computed in every epoch" in command("plan", *tiny, "frozen_features.cache=null").out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["frozen_features.cache=ram"], "frozen_features.cache=ram: expected none, memory or disk, got text; write"),
        (["frozen_features.views=0"], "frozen_features.views=0: expected"),
        (["frozen_features.bits=8"], "frozen_features.bits=8: expected 16 or 32, got 8"),
        (["frozen_features.max_gb=0"], "frozen_features.max_gb=0: expected"),
        (
            ["frozen_features.cache=memory", "frozen_features.max_gb=1e-6"],
            "GB, more than frozen_features.max_gb=1e-06: write a larger one, fewer",
        ),
        (
            ["frozen_features.cache=disk", "frozen_features.max_gb=1e-6"],
            "GB, more than frozen_features.max_gb=1e-06: write a larger one, fewer",
        ),
    ],
)
def test_bad_input(overrides: list[str], words: str, command: Command, tiny: list[str]) -> None:
    message = command("train", *tiny, "augment=none", "strategy=linear_probe", *overrides).message
    assert words in message


def test_a_disk_without_the_room_is_refused(config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="the disk has 1e-08"):
        build_cache(config, "strategy=linear_probe", "frozen_features.cache=disk")


def test_the_size_is_what_it_takes(config: Callable[..., DictConfig], command: Command, tiny: list[str]) -> None:
    cache = build_cache(config, "strategy=linear_probe", "frozen_features.cache=memory", "frozen_features.views=3")
    assert cache is not None
    samples = 3 * len(cache.data.samples("train")) + len(cache.data.samples("val"))
    (plan,) = cache.plans.values()
    assert cache.bytes == samples * 2 * sum(torch.Size(plan.shapes[path]).numel() for path in plan.paths)


SCENES = ["data=digit_scenes", "data.scenes=20", "heads=segmentation", "data.image_size=64"]
LINEAR = ["strategy=linear_probe", "frozen_features.cache=memory"]


def test_targets_count(config: Callable[..., DictConfig]) -> None:
    cache = build_cache(config, *SCENES, *LINEAR)
    assert cache is not None
    train, val = (len(cache.data.samples(split)) for split in ("train", "val"))
    (plan,) = cache.plans.values()
    outputs = (2 * train + val) * 2 * sum(torch.Size(plan.shapes[path]).numel() for path in plan.paths)
    masks = (2 * train + val) * 64 * 64 + val * 96 * 96  # a byte a pixel; of val the truth as well
    assert cache.bytes == outputs + masks


def test_targets_from_workers_are_no_open_files(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    cache = build_cache(config, *SCENES, *LINEAR, "data.num_workers=1")
    assert cache is not None
    cache.model._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))  # type: ignore[assignment]
    with cache.open(tmp_path):
        assert cache.prepare("val", 0)
        masks = [item["targets"]["segmentation"] for item in cache.stores["val"].items[0]]
        assert masks and not any(mask.is_shared() for mask in masks)


def test_numbers_too_large_for_16_bits_are_refused() -> None:
    store = Store(samples=4, bits=16)
    store.put(0, "stem", torch.tensor([1, 2]), torch.tensor([[1.0], [2.5]]))
    assert store.get(0, "stem", torch.tensor([2, 1])).tolist() == [[2.5], [1.0]]
    with pytest.raises(UserError, match=r"frozen_features\.bits=32"):
        store.put(0, "stem", torch.tensor([0]), torch.tensor([[1e6]]))
    Store(samples=4, bits=32).put(0, "stem", torch.tensor([0]), torch.tensor([[1e6]]))
    store.put(0, "stem", torch.tensor([0]), torch.tensor([[torch.nan]]))  # of bits no fault
