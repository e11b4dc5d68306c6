"""Batches are a function of seed and epoch; ranks share them out."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from visiontune.data.sampling import BEGINNING, EpochBatches, balanced_weights, progress


def flat(batches: EpochBatches) -> list[int]:
    return [index for batch in batches for _, index in batch]


def test_every_epoch_has_its_own_order_whatever_came_before() -> None:
    a, b = (EpochBatches(50, 8, seed=1, shuffle=True) for _ in range(2))
    orders = []
    for epoch in range(3):
        a.set_epoch(epoch)
        orders.append(list(a))
        assert sorted(flat(a)) == list(range(50))
        assert {pair[0] for batch in orders[-1] for pair in batch} == {epoch}
    b.set_epoch(2)
    assert list(b) == orders[2]
    assert orders[0] != orders[1] and list(EpochBatches(50, 8, seed=2, shuffle=True)) != orders[0]


@pytest.mark.parametrize("count", [64, 61, 57])
def test_all_ranks_together_see_what_one_process_sees(count: int) -> None:
    one = list(EpochBatches(count, 8, seed=3, shuffle=True))
    ranks = [list(EpochBatches(count, 4, seed=3, shuffle=True, rank=rank, world=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    for step, (left, right) in enumerate(zip(*ranks, strict=True)):
        assert len(left) == len(right)
        assert set(one[step]) <= set(left) | set(right)
        if step < count // 8:  # the last, short one wraps around to equal lengths
            assert Counter(one[step]) == Counter(left) + Counter(right)


@pytest.mark.parametrize(("count", "batch_size", "world"), [(33, 16, 2), (7, 4, 3), (100, 8, 4), (10, 3, 1), (2, 4, 2)])
def test_evaluation_repeats_nothing_and_ranks_finish_together(count: int, batch_size: int, world: int) -> None:
    ranks = [EpochBatches(count, batch_size, rank=rank, world=world) for rank in range(world)]
    assert sorted(index for rank in ranks for index in flat(rank)) == list(range(count))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(list(rank)) == len(rank) and max(map(len, rank)) <= batch_size for rank in ranks)
    assert all(min(map(len, rank)) > 0 for rank in ranks)


def test_a_part_of_an_evaluation_is_spread_over_the_whole() -> None:
    assert flat(EpochBatches(56, 4, at_most=28)) == list(range(0, 56, 2))
    assert flat(EpochBatches(10, 4, at_most=4)) == [0, 2, 5, 7] and len(EpochBatches(10, 4, at_most=4)) == 1
    assert flat(EpochBatches(10, 4, at_most=20)) == list(range(10))


def test_a_last_training_batch_of_one_is_dropped() -> None:
    assert [len(batch) for batch in EpochBatches(9, 4, shuffle=True)] == [4, 4]
    assert [len(batch) for batch in EpochBatches(10, 4, shuffle=True)] == [4, 4, 2]
    assert [len(batch) for batch in EpochBatches(9, 4)] == [4, 4, 1]
    assert [len(batch) for batch in EpochBatches(1, 4, shuffle=True)] == [1]
    assert [len(batch) for batch in EpochBatches(3, 1, shuffle=True)] == [1, 1, 1]
    assert len(EpochBatches(9, 4, shuffle=True)) == 2 and len(EpochBatches(3, 1, shuffle=True)) == 3


def test_resuming_within_an_epoch() -> None:
    batches = EpochBatches(20, 4, seed=0, shuffle=True)
    batches.set_epoch(4)
    whole = list(batches)
    batches.resume_at(epoch=4, done=3)
    assert list(batches) == whole[3:] and list(batches) == whole and len(batches) == 5


@pytest.mark.parametrize(
    ("done", "ready", "completed", "expected"),
    [
        (0, 1, 0, BEGINNING),
        (3, 3, 2, {"epoch": 2, "done": 3}),  # within the third epoch
        (5, 3, 2, {"epoch": 3, "done": 0}),  # its last batch is done, though its end is not
    ],
)
def test_where_a_run_goes_on(done: int, ready: int, completed: int, expected: dict[str, int]) -> None:
    batches = SimpleNamespace(current=SimpleNamespace(completed=done))
    epochs = SimpleNamespace(current=SimpleNamespace(ready=ready, completed=completed))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=batches), epoch_progress=epochs)
    trainer: Any = SimpleNamespace(fit_loop=loop, num_training_batches=5)
    assert progress(trainer) == expected


def test_balanced_draws_every_class_equally_often() -> None:
    labels = [0] * 900 + [1] * 90 + [2] * 10
    batches = EpochBatches(1000, 100, seed=0, shuffle=True, weights=balanced_weights(labels))
    drawn = Counter()
    for epoch in range(10):
        batches.set_epoch(epoch)
        drawn.update(labels[index] for index in flat(batches))
    assert all(abs(drawn[label] / 10_000 - 1 / 3) < 0.02 for label in range(3))
    ranks = [EpochBatches(1000, 50, shuffle=True, weights=balanced_weights(labels), rank=r, world=2) for r in range(2)]
    one = list(EpochBatches(1000, 100, shuffle=True, weights=balanced_weights(labels)))
    assert [Counter(a) + Counter(b) for a, b in zip(*ranks, strict=True)] == [Counter(batch) for batch in one]
