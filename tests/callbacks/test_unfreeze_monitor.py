"""What scores decide: told to the strategy the right way up, and said in the plan."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import Command

from visiontune.callbacks import UnfreezeMonitor, unfreeze_monitor
from visiontune.strategies import GradualUnfreeze


@pytest.mark.parametrize(("mode", "scores"), [("max", [0.5, 0.6, 0.6, 0.5]), ("min", [0.5, 0.4, 0.4, 0.5])])
def test_a_stall_is_no_improvement_in_the_heads_direction(
    mode: str, scores: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(unfreeze_monitor, "log", SimpleNamespace(info=said.append))
    callback = UnfreezeMonitor(("val/a/b", mode))
    module: Any = SimpleNamespace(strategy=GradualUnfreeze(["one", "two", "heads"], 3, patience=1))
    for epochs, score in enumerate(scores):
        trainer: Any = SimpleNamespace(
            state=SimpleNamespace(fn="fit"),
            global_step=10 * epochs,
            current_epoch=max(0, epochs - 1),
            max_epochs=3,
            callback_metrics={"val/a/b": torch.tensor(score)},
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        callback.on_validation_end(trainer, module)
    assert module.strategy.starts == {"heads": 0, "two": 2, "one": 3}
    assert said == ["val/a/b has stalled: two trains from epoch 3 on"]  # there is no epoch 4


def test_the_plan_says_when_at_the_earliest(command: Command, tiny: list[str], tmp_path: Path) -> None:
    arguments = ["strategy=gradual_unfreeze", "strategy.patience=2", "trainer.max_epochs=6"]
    lines = command("plan", *tiny, *arguments).out.splitlines()
    rows = {name: next(line for line in lines if line.split()[:1] == [name]) for name in ("block1", "block2", "heads")}
    assert "5 at the earliest" in rows["block1"] and "3 at the earliest" in rows["block2"] and " 1-6 " in rows["heads"]
    message = command("plan", *tiny, *arguments, "strategy.schedule={block2: 1}").message
    assert message.startswith("strategy.schedule and strategy.patience both set when stages unfreeze")
