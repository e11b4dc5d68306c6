"""`data=python data.datamodule._target_=...`: a LightningDataModule of a team's own."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from alike import check_training
from running import Command

from visiontune.data import VisionData
from visiontune.errors import UserError

Make = Callable[..., VisionData]
MODULE = ["data=python", "data.datamodule._target_=own_datasets.Module", "data.image_size=16"]


def test_batches_are_completed_and_the_same_again(make: Make) -> None:
    data = make(*MODULE)
    assert [len(data.samples(split)) for split in ("train", "val", "test")] == [30, 12, 9]
    assert data.counts()["val"] == {"classification": {"red": 4, "green": 4, "blue": 4}}
    assert data.steps_per_epoch() == 4 and data.batch_size == 8
    batch = next(iter(data.eval_loader("val")))
    assert batch["path"][:2] == ["val/000000", "val/000001"] and batch["index"].tolist() == list(range(8))
    assert batch["truth"] == batch["targets"] and batch["frame"][0].size == (16, 16)
    loader = data.train_dataloader()
    state = torch.get_rng_state()
    epochs = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        epochs.append(torch.cat([batch["image"] for batch in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])
    assert torch.equal(torch.get_rng_state(), state)
    data.load_state_dict({"epoch": 1, "done": 3})
    rest = torch.cat([batch["image"] for batch in data.train_dataloader()])
    assert torch.equal(rest, epochs[1][24:])
    picture = data.dataset("val", augmented=False).original_image(9)
    assert torch.equal(picture, (data.eval_loader("val").first(2)[1]["image"][1] * 255).round().byte())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data.datamodule._target_=own_datasets.Rectangles"], "expected a subclass of lightning.LightningDataModule"),
        (["data.datamodule._target_=own_datasets.NoSchema"], "NoSchema needs `schema`, such as"),
        (
            ["data.datamodule._target_=own_datasets.Pairs"],
            "batch 0: expected a dict with image and targets .* got tuple",
        ),
        (["data.image_size=32"], r"expected images \(B, 3, 32, 32\), .* got \(8, 3, 16, 16\); write"),
        (["+data.datamodule.scale=2"], r"expected uint8 images, or float from 0 to 1 .* got torch\.float32 from"),
    ],
)
def test_another_contract_is_refused(make: Make, keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(*MODULE, *keys)
    with pytest.raises(UserError, match=r"on one device, not on 2: write trainer\.devices=1"):
        make(*MODULE).steps_per_epoch(world=2)


class Killed(BaseException):
    """Nothing is written after it."""


class Stop(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 7:  # in the middle of the second epoch
            raise Killed


def test_a_run_trains_evaluates_and_resumes_to_the_same_weights(
    command: Command, small: list[str], tmp_path: Path
) -> None:
    keys = [*small, *MODULE, "logger=none", "epochs=3", "checkpoints.every_steps=2", "probe=false"]
    run = command("train", *keys).run
    assert "makes splits, batches and augmentation itself" in run.log.read_text()
    assert "trust=true" in command("evaluate", f"run={run.path}").message
    again = command("evaluate", f"run={run.path}", "trust=true")
    metrics = json.loads(run.metrics.read_text())
    assert f"{metrics['test/classification/loss']:.8f}" in again.out
    parts = tmp_path / "parts"
    with pytest.raises(Killed):
        command("train", *keys, f"run_dir={parts}", "+callbacks.stop._target_=test_own_module.Stop")
    # As a kill leaves it, and without what would stop it again.
    config = parts / "config.yaml"
    config.write_text(config.read_text().replace("test_own_module.Stop", "lightning.pytorch.callbacks.Callback"))
    check_training(run, command("train", f"run={parts}", "trust=true").run)
