"""The average of the weights, step by step."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from running import Command

from visiontune.callbacks import StochasticWeightAverage, WeightAverage


def test_an_exponential_average_with_a_short_start() -> None:
    callback = WeightAverage(horizon=0.1)
    callback._average_model = SimpleNamespace(module=torch.nn.Linear(1, 1))  # type: ignore[assignment]
    trainer: Any = SimpleNamespace(estimated_stepping_batches=200, ckpt_path=None)
    model: Any = torch.nn.Linear(1, 1)
    callback.on_train_start(trainer, model)
    assert callback.share(10_000) == pytest.approx(1 / 20)  # forgets over a tenth of 200 steps
    assert torch.equal(callback._average_model.module.weight, model.weight)

    average, expected = torch.zeros(3), 0.0
    for count in range(300):
        value = float(count % 7)
        callback._average([average], [torch.full((3,), value)], torch.tensor(count))
        decay = min(0.95, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
        assert average.tolist() == pytest.approx([expected] * 3, abs=1e-4)


def test_a_plain_mean_of_the_last_part() -> None:
    callback = StochasticWeightAverage(horizon=0.25)
    callback.steps = 200
    average = torch.zeros(3)
    for count in range(200):
        callback._average([average], [torch.full((3,), float(count))], torch.tensor(count))
        values = [float(count)] if count < 150 else [float(i) for i in range(150, count + 1)]
        assert average.tolist() == pytest.approx([sum(values) / len(values)] * 3, rel=1e-4)


@pytest.mark.parametrize("horizon", [0, 20, "long"])
def test_a_horizon_outside_its_range_is_refused(command: Command, tiny: list[str], horizon: Any) -> None:
    message = command("plan", *tiny, "technique=[swa]", f"technique.swa.horizon={horizon}").message
    assert message.startswith(f"technique.swa.horizon={horizon}: expected a fraction of all steps, above 0")


def test_counters_are_not_averaged() -> None:
    callback = WeightAverage()
    counter = torch.tensor(3)
    callback._average([counter], [torch.tensor(8)], torch.tensor(5))
    assert int(counter) == 8


def test_the_average_is_what_is_kept(command: Command, tiny: list[str], tmp_path: Path) -> None:
    """best.ckpt holds what was validated; without the average the weights are others."""
    states = []
    for name, more in (("with", ["technique.ema.horizon=1"]), ("without", ["technique=none"])):
        arguments = ["strategy=full", "data.batch_size=8", "optimizer.lr=0.01", *more]
        run = command("train", *tiny, *arguments, f"run_dir={tmp_path / name}").run
        loaded = torch.load(run.checkpoint("last"), weights_only=True)
        states.append(loaded["state_dict"])
        outcome = command("evaluate", f"run={run.path}", "split=val", "checkpoint=last", f"output={tmp_path / name}-m")
        assert outcome.code == 0, outcome.err
        found = json.loads((tmp_path / f"{name}-m" / "metrics.json").read_text())
        last = run.history.read_text().splitlines()
        row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
        assert float(row["val/loss"]) == pytest.approx(found["val/loss"], abs=1e-4)
    key = "heads.classification.linear.weight"
    assert float((states[0][key] - states[1][key]).abs().max()) > 1e-4
