"""A run that was stopped and goes on ends where an uninterrupted one does: bit for bit, whatever the strategy."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Command

from visiontune import train
from visiontune.finetuner import FineTuner
from visiontune.runs import RunDirectory

EPOCHS, STEPS = 4, 4  # of 16 pictures each
BASE = [
    f"trainer.max_epochs={EPOCHS}",
    "data.batch_size=16",
    "augment=mixup",
    "augment.flip=false",
    "probe=true",
    "optimizer.lr=0.01",
]
CASES: dict[str, list[str]] = {
    "linear_probe": [],
    "full": ["trainer.accumulate_grad_batches=3"],
    "gradual_unfreeze": ["strategy.batchnorm=train"],
    "lp_ft": ["scheduler=one_cycle"],
    "last_k": ["strategy.k=1", "scheduler=linear"],
    "first_k": ["strategy.k=1", "scheduler=exponential"],
    "discriminative": ["optimizer=sgd"],
    "layer_decay": ["scheduler=step"],
    "norm_only": ["scheduler=plateau"],
    "bias_only": ["optimizer=adam"],
    "lora": ["strategy.rank=2", "strategy.dropout=0.1"],
    "l2_sp": ["heads.classification.dropout=0.2"],
    "auto_rgn": ["scheduler=constant"],
    "sam": [],
    "wise_ft": ["data.num_workers=2"],
    "swa": ["data.num_workers=2"],
    "[lp_ft,ema,l2_sp]": ["~callbacks.first_batch"],
}


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C as the batch of this number, counted over the epochs, begins; once."""
    whole, left = FineTuner.on_train_batch_start, [step]

    def hook(self: FineTuner, batch: Any, batch_idx: int) -> None:
        if left and self.current_epoch * STEPS + batch_idx == left[0]:
            left.clear()
            raise KeyboardInterrupt
        whole(self, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "on_train_batch_start", hook)


def history(run: RunDirectory) -> list[dict[str, str]]:
    with run.history.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{i}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("number", range(len(CASES)), ids=list(CASES))
def test_resumed_equals_uninterrupted(
    number: int, command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = list(CASES)[number]
    step = [6, 11, 9, 4, 13, 7][number % 6]  # in the middle of an epoch, and at the beginning of one
    reported = number < 2
    if not reported:  # half of a run this small
        monkeypatch.setattr(train, "report", lambda *_: None)
    arguments = [*tiny, *BASE, f"strategy={strategy}", *CASES[strategy]]
    whole = command("train", *arguments, f"run_dir={tmp_path / 'whole'}").run
    with monkeypatch.context() as patch:
        interrupted_at(step, patch)
        stopped = command("train", *arguments, f"run_dir={tmp_path / 'parts'}")
    assert stopped.code == 1 and "interrupted; continue with" in stopped.out, stopped.err
    parts = command("train", f"run={tmp_path / 'parts'}").run
    assert history(parts) == history(whole)
    for which in ("best", "last"):
        one, other = (torch.load(run.checkpoint(which), weights_only=True) for run in (whole, parts))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "visiontune"):
            same(one[key], other[key], f"{which}/{key}")
    if reported:
        assert parts.metrics.read_text() == whole.metrics.read_text()
        assert parts.predictions.read_text() == whole.predictions.read_text()
