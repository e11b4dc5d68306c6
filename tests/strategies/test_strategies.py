"""What trains in which epoch, and at which rate."""

from typing import Any

import pytest
import torch
from torch import nn

from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.strategies import Full, GradualUnfreeze, LinearProbe, Stages, Strategy

NAMES = ["stem", "one", "two", "three", "heads"]
STRATEGIES: list[Any] = [LinearProbe, Full, GradualUnfreeze]


def stages() -> Stages:
    torch.manual_seed(0)
    backbone, _ = build("small_cnn", widths=[4, 8])
    return [*backbone.stages(), ("heads", nn.Linear(8, 3))]


def starts(strategy: Strategy, epochs: int) -> list[int | None]:
    """The epoch from which each stage trains; asserts that none freezes again."""
    found: list[int | None] = []
    for name in NAMES:
        trains = [name in strategy.trainable(epoch) for epoch in range(epochs)]
        assert trains == sorted(trains)
        found.append(trains.index(True) if any(trains) else None)
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_parameter_is_in_one_group_from_the_start(strategy: Any) -> None:
    parts = stages()
    made = strategy(stages=[name for name, _ in parts], epochs=5)
    groups = made.param_groups(parts, lr=0.1, weight_decay=0.05)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for _, module in parts for p in module.parameters())
    assert [group["name"] for group in groups] == [name + suffix for name, _ in parts for suffix in ("", ".no_decay")]
    for group in groups:
        small = group["name"].endswith(".no_decay")
        assert group["weight_decay"] == (0.0 if small else 0.05)
        assert all((p.ndim <= 1) == small for p in group["params"])


@pytest.mark.parametrize("strategy", [Full, GradualUnfreeze])
def test_the_rate_falls_by_a_factor_a_stage(strategy: Any) -> None:
    parts = stages()
    names = [name for name, _ in parts]
    groups = strategy(stages=names, epochs=5, lr_decay=0.5).param_groups(parts, lr=0.1, weight_decay=0.0)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {
        "block1": 0.025,
        "block1.no_decay": 0.025,
        "block2": 0.05,
        "block2.no_decay": 0.05,
        "heads": 0.1,
        "heads.no_decay": 0.1,
    }


def test_stages_without_weights_or_without_biases_make_one_group() -> None:
    parts: Stages = [("norm", nn.LayerNorm(4)), ("empty", nn.ReLU()), ("heads", nn.Linear(4, 2, bias=False))]
    groups = Full(stages=["norm", "empty", "heads"], epochs=1).param_groups(parts, 0.1, 0.5)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("norm.no_decay", 0.0), ("heads", 0.5)]


def test_probe_and_full() -> None:
    assert starts(LinearProbe(stages=NAMES, epochs=4), 4) == [None, None, None, None, 0]
    assert starts(Full(stages=NAMES, epochs=4), 4) == [0, 0, 0, 0, 0]
    assert LinearProbe(stages=NAMES, epochs=4).batchnorm == "frozen"


@pytest.mark.parametrize(
    ("epochs", "head_epochs", "unfrozen_by", "expected"),
    [
        (20, 1, 0.5, [10, 7, 4, 1, 0]),
        (10, 2, 0.8, [8, 6, 4, 2, 0]),
        (4, 1, 0.5, [2, 1, 1, 1, 0]),
        (10, 3, 0.0, [3, 3, 3, 3, 0]),
        (10, 0, 0.0, [0, 0, 0, 0, 0]),
        (10, 1, 1.0, [9, 6, 3, 1, 0]),  # the last stage has an epoch of its own at least
    ],
)
def test_stages_unfreeze_from_the_head_down(
    epochs: int, head_epochs: int, unfrozen_by: float, expected: list[int]
) -> None:
    strategy = GradualUnfreeze(stages=NAMES, epochs=epochs, head_epochs=head_epochs, unfrozen_by=unfrozen_by)
    assert starts(strategy, epochs) == expected


def test_any_backbone_unfreezes_in_order_and_completely() -> None:
    for count in (1, 2, 7, 14):
        names = [*(f"s{i}" for i in range(count)), "heads"]
        for epochs in (2, 3, 8, 30):
            strategy = GradualUnfreeze(stages=names, epochs=epochs)
            when = [strategy.starts[name] for name in names]
            assert when == sorted(when, reverse=True) and when[-1] == 0 and when[-2] == 1
            assert strategy.trainable(epochs - 1) == set(names)


def test_a_schedule_of_ones_own() -> None:
    strategy = GradualUnfreeze(stages=NAMES, epochs=6, schedule={"three": 2, "two": 4})
    assert starts(strategy, 6) == [None, None, 4, 2, 0]
    # A pure function: asked out of order, it says the same.
    assert [strategy.trainable(epoch) for epoch in (5, 0, 2)] == [
        {"heads", "three", "two"},
        {"heads"},
        {"heads", "three"},
    ]


def test_a_stage_that_has_just_unfrozen_warms_up() -> None:
    strategy = GradualUnfreeze(["a", "b", "heads"], 10, schedule={"b": 2, "a": 0}, warmup_epochs=2)
    assert [strategy.warmup("b", epoch) for epoch in (2.0, 2.5, 3.0, 4.0, 9.0)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert strategy.warmup("heads", 0.1) == 1.0 and strategy.warmup("a", 0.1) == 1.0
    assert GradualUnfreeze(["a", "heads"], 4, schedule={"a": 1}, warmup_epochs=0).warmup("a", 1.0) == 1.0
    for wrong in (-1, "two"):
        with pytest.raises(UserError, match=f"strategy.warmup_epochs={wrong}: write a number, 0"):
            GradualUnfreeze(["a", "heads"], 4, warmup_epochs=wrong)  # type: ignore[arg-type]


def test_a_stage_unfreezes_when_the_score_stalls() -> None:
    strategy = GradualUnfreeze(NAMES, 12, patience=2, warmup_epochs=2)
    scores = [0.5, 0.6, 0.6, 0.6, 0.7, float("nan"), 0.7, 0.6, 0.6, 0.9, 0.9, 0.8, 0.9]  # the first before any step
    unfrozen = [strategy.observe(epochs, score) for epochs, score in enumerate(scores)]
    # Two epochs that are not above 0.6 after the first; the best of all counts, and an unfreeze starts the count anew.
    assert {epochs: names for epochs, names in enumerate(unfrozen) if names} == {
        3: ["three"],
        6: ["two"],
        8: ["one"],
        11: ["stem"],
    }
    assert starts(strategy, 12) == [11, 8, 6, 3, 0]
    assert [strategy.warmup("three", epoch) for epoch in (3.0, 4.0, 5.0)] == [0.0, 0.5, 1.0]
    assert strategy.observe(12, 0.0) == []  # nothing is left


def test_what_scores_decided_is_restored_and_decided_once() -> None:
    strategy, again = (GradualUnfreeze(NAMES, 9, patience=1) for _ in range(2))
    for epochs, score in enumerate([0.5, 0.4]):
        strategy.observe(epochs, score)
    assert strategy.observe(1, 0.4) == []  # said again, as where a run goes on
    again.load_state_dict(strategy.state_dict())
    assert again.trainable(1) == {"heads", "three"} and again.trainable(0) == {"heads"}
    assert again.observe(2, 0.5) == ["two"] and again.state_dict() == {
        "starts": {"heads": 0, "three": 1, "two": 2},
        "best": 0.5,
        "since": 2,
    }
    for other in (GradualUnfreeze(NAMES, 9), Full(NAMES, 9)):
        assert other.observe(1, 0.0) == [] and other.state_dict() == {} and other.when("three") is None


def test_when_a_stage_can_unfreeze_at_the_earliest() -> None:
    strategy = GradualUnfreeze(NAMES, 6, patience=2)
    assert [strategy.when(name) for name in NAMES] == ["never", "never", "5 at the earliest", "3 at the earliest", None]


@pytest.mark.parametrize("patience", [0, 6, 2.5, True])
def test_a_patience_that_cannot_be(patience: Any) -> None:
    with pytest.raises(UserError) as refused:
        GradualUnfreeze(NAMES, 6, patience=patience)
    assert str(refused.value) == (
        f"strategy.patience={patience}: a number of epochs from 1 to 5 (the training has 6), such as "
        "strategy.patience=2; or null, to unfreeze by epochs"
    )


def test_a_schedule_and_a_patience_do_not_go_together() -> None:
    with pytest.raises(UserError, match=r"strategy.schedule and strategy.patience both set .* leave one of them null"):
        GradualUnfreeze(NAMES, 6, schedule={"two": 2}, patience=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_epochs": 6}, "strategy.head_epochs=6: the training has 6 epochs, and the backbone would never train"),
        ({"head_epochs": -1}, "strategy.head_epochs=-1: "),
        ({"unfrozen_by": 3}, "strategy.unfrozen_by=3: a share of all epochs, such as strategy.unfrozen_by=0.5"),
        (
            {"schedule": {"two": "soon"}},
            "strategy.schedule unfreezes two at epoch soon: write a whole number, 0 or more",
        ),
        ({"schedule": {"two": 1.5}}, "strategy.schedule unfreezes two at epoch 1.5: write a whole number, 0 or more"),
        ({"schedule": {"heads": 2}}, "strategy.schedule freezes everything in epoch 0: leave heads out of it"),
    ],
)
def test_schedules_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GradualUnfreeze(NAMES, 6, **arguments)


def test_a_single_epoch_can_be_tried() -> None:
    assert starts(GradualUnfreeze(NAMES, 1), 1) == [None, None, None, None, 0]


def test_a_schedule_that_cannot_be() -> None:
    with pytest.raises(UserError) as unknown:
        GradualUnfreeze(stages=NAMES, epochs=6, schedule={"blocks.9": 1})
    assert str(unknown.value) == (
        "strategy.schedule names stage 'blocks.9', which this backbone lacks: "
        "its stages are stem, one, two, three, heads"
    )
    with pytest.raises(UserError) as late:
        GradualUnfreeze(stages=NAMES, epochs=6, schedule={"two": 8})
    assert str(late.value) == (
        "strategy.schedule unfreezes two at epoch 8, but the epochs are 0 to 5: "
        "write a smaller number, or trainer.max_epochs=9"
    )
