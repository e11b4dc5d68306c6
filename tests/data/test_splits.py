"""Splits depend on content and seed; what belongs together stays together."""

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from visiontune.data.assign import assign
from visiontune.data.schema import Sample, TaskInfo
from visiontune.data.splits import Strata, by_ratio, carve_val, few_shot, k_folds, strata
from visiontune.data.targets import LabelMap
from visiontune.errors import UserError

RATIO = {"train": 0.7, "val": 0.15, "test": 0.15}
SCHEMA = {"classification": TaskInfo("classification", ["a", "b", "c"])}


def samples(counts: tuple[int, ...] = (50, 30, 20)) -> list[Sample]:
    return [
        Sample(f"{label}/{i}.png", {"classification": label}, content=f"{label}-{i}")
        for label, count in enumerate(counts)
        for i in range(count)
    ]


def classes(some: list[Sample]) -> dict[str, int | None]:
    return strata(some, SCHEMA)


def k_fold(
    some: list[Sample], fold: int, folds: int, ratio: dict[str, float], seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """The splits of one fold."""
    return list(k_folds(some, folds, ratio, seed, strata))[fold]


def share(splits: dict[str, str], some: list[Sample]) -> dict[str, Counter]:
    """split -> how many of each class."""
    result: dict[str, Counter] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for sample in some:
        result[splits[sample.path]][sample.targets.get("classification")] += 1
    return result


def test_neither_order_nor_names_matter() -> None:
    some = samples()
    splits = by_ratio(some, RATIO, 1, classes(some))
    shuffled = random.Random(0).sample(some, len(some))
    assert by_ratio(shuffled, RATIO, 1, classes(shuffled)) == splits
    renamed = [replace(sample, path=sample.path[::-1]) for sample in shuffled]
    moved = by_ratio(renamed, RATIO, 1, classes(renamed))
    by_content = {sample.content: splits[sample.path] for sample in some}
    assert {sample.content: moved[sample.path] for sample in renamed} == by_content
    assert by_ratio(some, RATIO, 2, classes(some)) != splits


def test_known_answer() -> None:
    """The very same split on every machine and in every later version."""
    some = samples((6, 6, 6))
    splits = by_ratio(some, {"train": 2 / 3, "val": 1 / 6, "test": 1 / 6}, 0, classes(some))
    assert sorted(path for path, split in splits.items() if split == "test") == ["0/2.png", "1/5.png", "2/4.png"]


def test_every_class_is_shared_out_alike() -> None:
    some = samples((40, 40, 20))
    parts = share(by_ratio(some, RATIO, 5, classes(some)), some)
    assert parts["test"] == {0: 6, 1: 6, 2: 3} and parts["val"] == {0: 6, 1: 6, 2: 3}


def test_tiny_classes_do_not_starve_val_and_test() -> None:
    some = samples((3,) * 40)
    parts = share(by_ratio(some, RATIO, 5, classes(some)), some)
    assert [parts[split].total() for split in ("train", "val", "test")] == [84, 18, 18]
    assert set(parts["train"]) == set(range(40))


def test_a_single_sample_trains() -> None:
    some = samples((30, 1, 1))
    assert share(by_ratio(some, RATIO, 0, classes(some)), some)["train"].keys() == {0, 1, 2}


def test_not_stratified_has_the_same_totals() -> None:
    some = samples((70, 20, 10))
    parts = share(by_ratio(some, RATIO, seed=0), some)
    assert [parts[split].total() for split in ("train", "val", "test")] == [70, 15, 15]


def test_groups_and_identical_pictures_never_straddle() -> None:
    some = [replace(sample, group=f"g{i % 17}") for i, sample in enumerate(samples())]
    # The same image in two groups joins them.
    some += [Sample("twin/1.png", {"classification": 0}, group="g1", content="twin")]
    some += [Sample("twin/2.png", {"classification": 0}, group="g2", content="twin")]
    for seed in range(5):
        splits = by_ratio(some, RATIO, seed, classes(some))
        for group in {sample.group for sample in some}:
            assert len({splits[sample.path] for sample in some if sample.group == group}) == 1
        assert len({splits[sample.path] for sample in some if sample.group in ("g1", "g2")}) == 1
        folds = k_fold(some, seed, 5, RATIO, 0, classes(some))
        for group in {sample.group for sample in some}:
            assert len({folds[sample.path] for sample in some if sample.group == group}) == 1
    assert set(splits.values()) == {"train", "val", "test"}


def test_each_sample_is_held_out_exactly_once() -> None:
    some = samples((23, 11, 7))
    held = Counter()
    for fold in range(5):
        splits = k_fold(some, fold, 5, RATIO, 9, classes(some))
        parts = share(splits, some)
        assert 8 <= parts["test"].total() <= 9 and 4 <= parts["test"][0] <= 5 and 1 <= parts["test"][2] <= 2
        assert parts["val"].total() == pytest.approx(41 * 0.8 * 0.15 / 0.85, abs=1)
        held.update(path for path, split in splits.items() if split == "test")
        assert len(splits) == 41
    assert set(held.values()) == {1} and len(held) == 41


def test_folds_have_val_splits_of_their_own() -> None:
    some = samples((100, 60, 40))
    vals = []
    for fold in range(5):
        splits = k_fold(some, fold, 5, RATIO, 3, classes(some))
        assert share(splits, some)["val"] == {0: 14, 1: 8, 2: 6}  # 15 of 85 of what is not held out, stratified
        vals.append({path for path, split in splits.items() if split == "val"})
    shares = [len(a & b) / len(a) for a, b in combinations(vals, 2)]
    # By chance: 0.75 of a val split may be in the other's, and 28 of 160 images of those are.
    assert sum(shares) / len(shares) == pytest.approx(0.75 * 28 / 160, abs=0.05) and max(shares) < 0.3


def test_folds_do_not_depend_on_the_order_and_keep_groups_and_copies_together() -> None:
    some = [replace(sample, group=f"g{i % 23}") for i, sample in enumerate(samples())]
    some += [replace(sample, path=f"copy/{sample.path}", group=None) for sample in some[::9]]
    shuffled = random.Random(0).sample(some, len(some))
    tested = Counter()
    for fold in range(4):
        splits = k_fold(some, fold, 4, RATIO, 5, classes(some))
        assert k_fold(shuffled, fold, 4, RATIO, 5, classes(shuffled)) == splits
        parts = {sample.path: splits[sample.path] for sample in some}
        assert all(parts[sample.path] == parts[f"copy/{sample.path}"] for sample in some[:100:9])
        assert all(
            len({parts[s.path] for s in some if s.group == group}) == 1 for group in {s.group for s in some[:100]}
        )
        tested.update(path for path, split in splits.items() if split == "test")
        assert share(splits, some)["test"].total() == pytest.approx(len(some) / 4, abs=5)
    assert set(tested.values()) == {1} and len(tested) == len(some)
    assert k_fold(some, 0, 4, RATIO, 6, classes(some)) != k_fold(some, 0, 4, RATIO, 5, classes(some))


def test_classes_too_small_for_the_folds() -> None:
    some = samples((3, 2, 3))
    tested = [sum(s == "test" for s in k_fold(some, fold, 4, RATIO, 0, classes(some)).values()) for fold in range(4)]
    assert tested == [2, 2, 2, 2]
    with pytest.raises(UserError, match=r"data\.folds=9: there are 8 images or groups; write 8 or less"):
        k_fold(some, 0, 9, RATIO, 0, classes(some))


def test_fold_out_of_range() -> None:
    for fold, folds in ((5, 5), (-1, 5)):
        with pytest.raises(UserError, match=r"fold goes from 0 to folds - 1; write data.fold=0"):
            assign(samples(), SCHEMA, ratio=RATIO, seed=0, fold=fold, folds=folds)
    with pytest.raises(UserError, match=r"data\.fold=0 data\.folds=5"):
        assign(samples(), SCHEMA, ratio=RATIO, seed=0, fold=1)


def test_few_shot_keeps_that_many_of_each() -> None:
    result, notes = assign(samples(), SCHEMA, ratio=RATIO, seed=0, per_class=4)
    assert Counter(sample.targets["classification"] for sample in result["train"]) == {0: 4, 1: 4, 2: 4}
    assert notes == ["data.per_class=4: 58 training samples are left out"]
    whole, _ = assign(samples(), SCHEMA, ratio=RATIO, seed=0)
    assert result["val"] == whole["val"] and result["test"] == whole["test"]
    assert {sample.path for sample in result["train"]} < {sample.path for sample in whole["train"]}
    with pytest.raises(UserError, match=r"class 'c' has 14 training samples\. Write data\.per_class=14 or less"):
        assign(samples(), SCHEMA, ratio=RATIO, seed=0, per_class=15)


def test_few_shot_depends_on_content_and_seed_alone() -> None:
    some = samples()
    renamed = [replace(sample, path=sample.path[::-1]) for sample in reversed(some)]

    def contents(these: list[Sample], seed: int) -> set[str]:
        return {sample.content for sample in few_shot(these, 4, ["a", "b", "c"], seed, classes(these))}

    assert contents(renamed, 0) == contents(some, 0) != contents(some, 1)


def test_limit_train_keeps_the_proportion() -> None:
    result, notes = assign(samples(), SCHEMA, ratio=RATIO, seed=0, limit_train=20)
    assert Counter(sample.targets["classification"] for sample in result["train"]) == {0: 10, 1: 6, 2: 4}
    assert notes == ["data.limit_train=20: 50 training samples are left out"]


def test_limit_train_below_the_smallest_group() -> None:
    grouped = [replace(sample, group=f"{i % 10}") for i, sample in enumerate(samples())]
    with pytest.raises(UserError, match=r"data.limit_train=3: a group has more samples; .*data.limit_train=30"):
        assign(grouped, SCHEMA, ratio=RATIO, seed=0, limit_train=3, stratify=False)


@pytest.mark.parametrize("per_class", [None, 1])
def test_limit_train_below_the_number_of_classes(per_class: int | None) -> None:
    with pytest.raises(UserError, match=r"^class '[ab]' .* Write a larger number, such as data\.limit_train=10\.$"):
        assign(samples((9, 9, 9)), SCHEMA, ratio=RATIO, seed=0, limit_train=1, per_class=per_class)


def owned(**split_of: str) -> list[Sample]:
    """Samples whose split is the one of their number modulo the given list."""
    names = list(split_of.values())
    return [replace(sample, split=names[i % len(names)]) for i, sample in enumerate(samples())]


def test_the_owners_splits_stand() -> None:
    some = owned(a="train", b="val", c="test")
    result, notes = assign(some, SCHEMA, ratio=RATIO, seed=0)
    assert {sample.path: split for split, part in result.items() for sample in part} == {s.path: s.split for s in some}
    assert notes == []
    result, _ = assign(owned(a="train", b="val"), SCHEMA, ratio=RATIO, seed=0)
    assert result["test"] == []


def test_a_missing_val_is_carved_out_of_train() -> None:
    some = owned(a="train", b="test")
    result, notes = assign(some, SCHEMA, ratio=RATIO, seed=0)
    assert [len(result[split]) for split in ("train", "val", "test")] == [41, 9, 50]
    assert notes == ["the data set has no val split: 9 training samples become val"]
    carved = carve_val([sample for sample in some if sample.split == "train"], RATIO, 0, classes(some))
    assert {sample.path for sample in result["val"]} == {path for path, split in carved.items() if split == "val"}


def test_a_data_set_without_a_train_split() -> None:
    with pytest.raises(UserError, match=r"a test and a val split, but no train split: .*data\.fold=0 data\.folds=5"):
        assign(owned(a="val", b="test"), SCHEMA, ratio=RATIO, seed=0)


def test_folds_ignore_the_owners_splits_and_say_so() -> None:
    _, notes = assign(owned(a="train", b="test"), SCHEMA, ratio=RATIO, seed=0, fold=0, folds=4)
    assert notes == ["the splits of the data set are ignored: k-fold uses all samples"]


def test_leaks_are_noted() -> None:
    some = owned(a="train", b="val", c="test")
    train = [sample for sample in some if sample.split == "train"][:3]
    some += [replace(sample, path=f"copy/{i}", split="test") for i, sample in enumerate(train)]
    _, notes = assign(some, SCHEMA, ratio=RATIO, seed=0)
    assert notes == ["leak: 3 identical images are in both train and test; the test metrics are too optimistic"]


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        ({"train": 0.8, "val": 0.3, "test": 0.1}, "sums to 1.2 instead of 1"),
        ({"train": 1.0, "val": 0.0}, "train and val need a share above 0"),
        ({"train": 0.8, "valid": 0.2}, "train and val need a share above 0"),
    ],
)
def test_a_ratio_that_makes_no_sense(ratio: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign(samples(), SCHEMA, ratio=ratio, seed=0)


def test_too_few_samples() -> None:
    with pytest.raises(UserError, match="3 samples are too few: nothing is left for test"):
        assign(samples((1, 1, 1)), SCHEMA, ratio=RATIO, seed=0)


def test_samples_of_other_tasks_split_without_classes() -> None:
    some = [Sample(f"{i}.png", {"dense": torch.zeros(3, 4, 4)}, content=str(i)) for i in range(20)]
    result, _ = assign(some, {"dense": TaskInfo("dense", ["red", "green", "blue"])}, ratio=RATIO, seed=0)
    assert [len(part) for part in result.values()] == [14, 3, 3]


KINDS = {"objects": TaskInfo("detection", ["common", "rare", "never"])}


def pictures(rare: int, common: int) -> list[Sample]:
    """`rare` images with an object of each of two classes, `common` with the first alone, and one without any."""
    labels = [[0, 1, 0]] * rare + [[0, 0]] * common + [[]]
    return [Sample(f"{i}", {"objects": {"labels": found}}, content=f"{i}") for i, found in enumerate(labels)]


def test_the_rarest_class_of_a_picture_is_what_it_is_shared_out_by() -> None:
    some = pictures(rare=10, common=29)
    found = strata(some, KINDS)
    assert [found[str(i)] for i in (0, 9, 10, 38, 39)] == [1, 1, 0, 0, None]
    splits = by_ratio(some, {"train": 0.6, "val": 0.2, "test": 0.2}, 0, found)
    rare = Counter(splits[str(i)] for i in range(10))
    assert rare == {"train": 6, "val": 2, "test": 2}


def test_labels_of_a_vector_are_its_ones_and_values_have_none() -> None:
    schema = {"x": TaskInfo("multilabel", ["a", "b"])}
    some = [Sample(str(i), {"x": torch.tensor(v)}) for i, v in enumerate([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])]
    assert strata(some, schema) == {"0": 1, "1": 0, "2": None}
    assert strata(some, {"x": TaskInfo("regression", ["a", "b"])}) == {}
    drawn = Sample("3", {"x": LabelMap(torch.tensor([[2, 255], [0, 2]], dtype=torch.uint8))})
    assert TaskInfo("segmentation", []).labels(drawn.targets["x"]) == [0, 2]


def test_classes_of_objects_that_train_lacks_are_noted() -> None:
    given = [replace(sample, split="val" if i < 2 else "train") for i, sample in enumerate(pictures(2, 10))]
    _, notes = assign(given, KINDS, ratio=RATIO, seed=0)
    assert notes == [
        "objects: 1 of 3 classes are in val or test but not in train: rare",
        "objects: 1 of 3 classes are in no image at all: never",
    ]
    with pytest.raises(UserError, match=r"data\.per_class needs images with one class each, but objects"):
        assign(given, KINDS, ratio=RATIO, seed=0, per_class=2)
