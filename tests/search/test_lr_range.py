"""The range test returns the learning rate up to which the loss falls, for all stages that will train."""

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
    lrs = [LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1)) for i in range(STEPS)]
    losses = [1 + 0.001 * (i - 60) ** 2 for i in range(STEPS)]
    assert choose_lr(lrs, losses) == lrs[60]
    with pytest.raises(UserError, match=r"write optimizer\.lr=5e-4"):
        choose_lr(lrs, [1.0 + i for i in range(STEPS)])


@pytest.mark.slow
def test_the_loss_falls_up_to_the_chosen_lr(config: Callable[..., DictConfig]) -> None:
    cfg = config("optimizer=adamw", "strategy=full", "augment=none", "data.limit_train=300", "probe=false")
    result = range_test(cfg)
    assert LOWEST < result.lr < HIGHEST
    lowest = min(result.losses[10:])
    assert result.losses[result.lrs.index(result.lr)] == lowest < result.losses[10] - 0.1
    assert cfg.optimizer.lr == pytest.approx(5e-4)  # the config is unchanged
    assert result.lrs == pytest.approx(sorted(result.lrs))


@pytest.mark.parametrize("overrides", [[], ["strategy.patience=2"]], ids=["by epochs", "by scores"])
@pytest.mark.slow
def test_the_range_test_trains_all_stages_that_unfreeze_later(
    overrides: list[str], config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_stages: list[set[str]] = []
    original = FineTuner.on_train_epoch_start

    def hook(self: FineTuner) -> None:
        original(self)
        trained_stages.append(
            {name for name, stage in self.stages() if all(p.requires_grad for p in stage.parameters())}
        )

    monkeypatch.setattr(FineTuner, "on_train_epoch_start", hook)
    range_test(config("strategy=gradual_unfreeze", *overrides, "trainer.max_epochs=5", "optimizer=sgd", "augment=none"))
    assert trained_stages[0] == {"block1", "block2", "heads"}


@pytest.mark.slow
def test_auto_lr_trains_and_writes_its_curve(command: Command, tiny: list[str]) -> None:
    run = command("train", *tiny, "optimizer.lr=auto", "augment=none", "data.limit_train=300").run
    lr = run.read_config().optimizer.lr
    assert isinstance(lr, float) and LOWEST < lr < HIGHEST
    with (run.report / "lr_range.csv").open(newline="") as file:
        rows = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert len(rows) > 20 and min(rows[10:], key=lambda row: row[1])[0] == pytest.approx(lr)
    assert (run.report / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert '<img src="lr_range.png"' in (run.report / "index.html").read_text()
    groups = torch.load(run.checkpoint("last"), weights_only=True)["optimizer_states"][0]["param_groups"]
    assert max(group["initial_lr"] for group in groups) == pytest.approx(lr)


def test_the_plan_shows_the_range_test(command: Command, tiny: list[str]) -> None:
    out = command("plan", *tiny, "optimizer.lr=auto").out
    assert "optimizer.lr=auto: the range test decides" in out and "1.00e+00" in out
