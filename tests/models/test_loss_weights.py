"""How the losses of several tasks become one."""

import math

import pytest
import torch

from visiontune.errors import UserError
from visiontune.models.loss_weights import FixedWeights, LearnedWeights, build_loss_weights


def test_fixed_weights_are_one_where_none_is_named() -> None:
    weigh = build_loss_weights(["a", "b"], {"b": 0.25})
    assert isinstance(weigh, FixedWeights)
    assert float(weigh({"a": torch.tensor(2.0), "b": torch.tensor(4.0)}, ["a", "b"])) == 3.0
    assert weigh.factors() == {"a": 1.0, "b": 0.25} and not list(weigh.parameters())


def test_learned_weights_end_at_the_inverse_of_each_loss() -> None:
    """exp(-s) L + s is smallest at s = ln L, where the factor is 1 / L and the total 1 + ln L."""
    weigh = build_loss_weights(["a", "b"], "learned")
    assert isinstance(weigh, LearnedWeights)
    losses = {"a": torch.tensor(0.2), "b": torch.tensor(5.0)}
    assert float(weigh(losses, ["a", "b"]).detach()) == pytest.approx(5.2)
    optimizer = torch.optim.SGD(weigh.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        weigh(losses, ["a", "b"]).backward()
        optimizer.step()
    assert weigh.factors() == pytest.approx({"a": 5.0, "b": 0.2}, rel=1e-3)
    assert float(weigh(losses, ["a", "b"]).detach()) == pytest.approx(2 + math.log(0.2) + math.log(5.0), abs=1e-4)


def test_batches_without_labels_teach_nothing_about_a_task() -> None:
    """Labelled in every tenth batch, a task ends at the weight that it would have if it were in all."""
    weigh = build_loss_weights(["a", "b", "c"], "learned")
    optimizer = torch.optim.SGD(weigh.parameters(), lr=0.3)
    for step in range(600):
        b = step % 10 == 0
        losses = {"a": torch.tensor(0.5), "b": torch.tensor(0.5 if b else 0.0), "c": torch.tensor(0.0)}
        optimizer.zero_grad()
        weigh(losses, ["a", "b"] if b else ["a"]).backward()
        assert all(parameter.grad is not None for parameter in weigh.parameters())
        optimizer.step()
    assert weigh.factors() == pytest.approx({"a": 2.0, "b": 2.0, "c": 1.0}, rel=1e-3)


def test_what_cannot_be_weighed() -> None:
    with pytest.raises(UserError, match=r"^loss_weights.c: unknown head; write one of a, b$"):
        build_loss_weights(["a", "b"], {"c": 1.0})
    with pytest.raises(UserError, match=r"^loss_weights=uncertain: write learned"):
        build_loss_weights(["a", "b"], "uncertain")
