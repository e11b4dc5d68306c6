"""The range test finds the rate up to which the loss falls, for what will train."""

import csv
import math
from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from running import Command

from visiontune.errors import UserError
from visiontune.models.finetuner import FineTuner
from visiontune.search.lr_range import HIGHEST, LOWEST, STEPS, choose_lr, range_test, smooth


def test_smoothed_means_are_bias_corrected_and_end_at_the_first_nan() -> None:
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([1.0, 3.0, math.nan, 1.0]) == pytest.approx([1.0, (0.09 + 0.3) / 0.19])


def test_the_lowest_mean_decides() -> None:
    rates = [LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1)) for i in range(STEPS)]
    losses = [1 + 0.001 * (i - 60) ** 2 for i in range(STEPS)]
    assert choose_lr(rates, losses) == rates[60]
    with pytest.raises(UserError, match=r"write optimizer\.lr=5e-4"):
        choose_lr(rates, [1.0 + i for i in range(STEPS)])


@pytest.mark.slow
def test_the_loss_fell_up_to_it(config: Callable[..., DictConfig]) -> None:
    cfg = config("optimizer=adamw", "strategy=full", "augment=none", "data.limit_train=300", "probe=false")
    tested = range_test(cfg)
    assert LOWEST < tested.lr < HIGHEST
    lowest = min(tested.losses[10:])
    assert tested.losses[tested.lrs.index(tested.lr)] == lowest < tested.losses[10] - 0.1
    assert cfg.optimizer.lr == pytest.approx(5e-4)  # the config itself is as it was
    assert tested.lrs == pytest.approx(sorted(tested.lrs))


@pytest.mark.parametrize("thaws", [[], ["strategy.patience=2"]], ids=["by epochs", "by scores"])
@pytest.mark.slow
def test_it_trains_what_will_have_thawed(
    thaws: list[str], config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    whole = FineTuner.on_train_epoch_start

    def hook(self: FineTuner) -> None:
        whole(self)
        seen.append({name for name, stage in self.stages() if all(p.requires_grad for p in stage.parameters())})

    monkeypatch.setattr(FineTuner, "on_train_epoch_start", hook)
    range_test(config("strategy=gradual_unfreeze", *thaws, "trainer.max_epochs=5", "optimizer=sgd", "augment=none"))
    assert seen[0] == {"block1", "block2", "heads"}


@pytest.mark.slow
def test_auto_rate_trains_and_leaves_its_curve(command: Command, tiny: list[str]) -> None:
    run = command("train", *tiny, "optimizer.lr=auto", "augment=none", "data.limit_train=300").run
    rate = run.read_config().optimizer.lr
    assert isinstance(rate, float) and LOWEST < rate < HIGHEST
    with (run.report / "lr_range.csv").open(newline="") as file:
        rows = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert len(rows) > 20 and min(rows[10:], key=lambda row: row[1])[0] == pytest.approx(rate)
    assert (run.report / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert '<img src="lr_range.png"' in (run.report / "index.html").read_text()
    groups = torch.load(run.checkpoint("last"), weights_only=True)["optimizer_states"][0]["param_groups"]
    assert max(group["initial_lr"] for group in groups) == pytest.approx(rate)


def test_the_plan_shows_shares(command: Command, tiny: list[str]) -> None:
    out = command("plan", *tiny, "optimizer.lr=auto").out
    assert "optimizer.lr=auto: the range test decides" in out and "1.00e+00" in out
