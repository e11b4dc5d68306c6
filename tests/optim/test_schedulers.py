"""The learning rate at given steps, and what plateau takes for better."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from visiontune.errors import UserError
from visiontune.optim import schedulers

MONITOR = ("val/classification/accuracy", "max")
STEPS = 100


def rates(make: Callable[..., schedulers.Config], steps: int = STEPS, **options: object) -> list[list[float]]:
    """By step, the rate of two groups with 0.1 and 0.01; one more than there are steps."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    config = make(optimizer, steps, MONITOR, **options)
    assert config["interval"] == "step"
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        config["scheduler"].step()
    return [*found, [group["lr"] for group in optimizer.param_groups]]


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (schedulers.constant, {}, {0: 1, 50: 1, 100: 1}),
        (schedulers.constant, {"warmup": 0.1}, {0: 1 / 11, 4: 5 / 11, 9: 10 / 11, 10: 1, 100: 1}),
        (schedulers.cosine, {"warmup": 0.1}, {0: 1 / 11, 10: 1, 55: 0.5, 100: 0}),
        (schedulers.cosine, {"warmup": 0.0, "final": 0.2}, {0: 1, 25: 0.6 + 0.4 * math.sqrt(0.5), 50: 0.6, 100: 0.2}),
        (schedulers.linear, {"warmup": 0.2}, {0: 1 / 21, 20: 1, 60: 0.5, 80: 0.25, 100: 0}),
        (schedulers.linear, {"warmup": 0.0, "final": 0.5}, {0: 1, 50: 0.75, 100: 0.5}),
        (schedulers.exponential, {"warmup": 0.0, "final": 0.01}, {0: 1, 25: 10**-0.5, 50: 0.1, 100: 0.01}),
        (
            schedulers.step,
            {"warmup": 0.0, "milestones": [0.6, 0.85], "gamma": 0.1},
            {0: 1, 59: 1, 60: 0.1, 84: 0.1, 85: 0.01, 100: 0.01},
        ),
    ],
)
def test_multiples_of_the_peak_rate(
    make: Callable[..., schedulers.Config], options: dict[str, object], expected: dict[int, float]
) -> None:
    found = rates(make, **options)
    for step, multiple in expected.items():
        assert found[step] == pytest.approx([0.1 * multiple, 0.01 * multiple], abs=1e-9), step


def test_one_cycle_goes_up_and_down_with_momentum_against_it() -> None:
    found = rates(schedulers.one_cycle, pct_start=0.3, div_factor=25.0, final_div_factor=1e4)
    assert found[0] == pytest.approx([0.1 / 25, 0.01 / 25])
    peak = max(range(100), key=lambda step: found[step][0])
    assert peak == 29 and found[29] == pytest.approx([0.1, 0.01])
    assert found[99] == pytest.approx([0.1 / 25e4, 0.01 / 25e4])


@pytest.mark.parametrize("make", [schedulers.constant, schedulers.cosine, schedulers.linear, schedulers.exponential])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_training_has_a_rate(make: Callable[..., schedulers.Config], steps: int) -> None:
    found = rates(make, steps)
    assert all(0 < rate <= 0.1 for rate, _ in found[:steps])


def test_one_cycle_of_a_single_step() -> None:
    assert 0 < rates(schedulers.one_cycle, steps=1)[0][0] <= 0.1


def test_one_cycle_goes_on_for_more_steps_than_it_was_begun_for() -> None:
    def begun(steps: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        return optimizer, schedulers.one_cycle(optimizer, steps, MONITOR)["scheduler"]

    _, before = begun(10)
    for _ in range(9):
        before.optimizer.step()
        before.step()
    optimizer, scheduler = begun(40)
    scheduler.load_state_dict(before.state_dict())
    for _ in range(30):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 25e4)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (schedulers.step, {"milestones": [10, 20]}, r"scheduler.milestones=10: a fraction, from 0 and below 1"),
        (schedulers.cosine, {"warmup": 3}, r"scheduler.warmup=3: a fraction, .* such as scheduler.warmup=0.1"),
        (schedulers.exponential, {"final": 0.0}, r"scheduler.final=0.0: a fraction, above 0 and below 1"),
    ],
)
def test_epochs_where_fractions_are_wanted(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), STEPS, MONITOR, **options)


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        # Rising is better for max: the rate falls only once the values do.
        ("max", [0.1, 0.2, 0.3, 0.4, 0.5], 0.1),
        ("max", [0.5, 0.4, 0.3, 0.2], 0.02),
        ("min", [0.1, 0.2, 0.3, 0.4], 0.02),
        ("min", [0.5, 0.4, 0.3, 0.2, 0.1], 0.1),
    ],
)
def test_plateau_obeys_the_direction(mode: str, values: list[float], expected: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    config = schedulers.plateau(optimizer, 10, ("val/x/y", mode), factor=0.2, patience=2)
    assert config["interval"] == "epoch" and config["monitor"] == "val/x/y"
    for value in values:
        optimizer.step()
        config["scheduler"].step(value)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
