"""From what the owner said and the user asked to the three lists of samples, and the words about it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from visiontune.data import splits
from visiontune.data.schema import SPLITS, Sample, TaskInfo
from visiontune.data.seeding import derive
from visiontune.errors import UserError, some


def assign(
    samples: list[Sample],
    schema: Mapping[str, TaskInfo],
    *,
    ratio: Mapping[str, float],
    seed: int,
    fold: int | None = None,
    folds: int | None = None,
    per_class: int | None = None,
    limit_train: int | None = None,
    stratify: bool = True,
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Decide every sample's split.

    The owner's splits stand unless folds are asked for; a missing val is carved out of train, a missing test stays
    missing.

    Returns:
        split -> samples sorted by path, and notes on whatever was decided or left out.

    Raises:
        UserError: the ratio or the folds make no sense, a split comes out empty, a class has nothing to train on, or
            more samples a class are asked for than there are.
    """
    splits.check_ratio(ratio)
    notes: list[str] = []
    owned = any(sample.split for sample in samples)
    strata = splits.strata(samples, schema) if stratify else None
    if (fold is None) != (folds is None):
        raise UserError("k-fold needs both: data.fold=0 data.folds=5 (fold goes from 0 to folds - 1)")
    if fold is not None and folds is not None:
        decided = splits.k_fold(samples, fold, folds, ratio, seed, strata)
        wanted: tuple[str, ...] = SPLITS
        notes += ["the owner's splits are ignored: k-fold takes all samples"] if owned else []
    elif owned:
        decided, more = _as_owned(samples, ratio, seed, strata)
        wanted = ("train", "val")
        notes += more
    else:
        decided = splits.by_ratio(samples, ratio, seed, strata)
        wanted = tuple(split for split in SPLITS if ratio.get(split, 0) > 0)
    ordered = sorted(samples, key=lambda sample: sample.path)
    result = {split: [sample for sample in ordered if decided.get(sample.path) == split] for split in SPLITS}
    for split in wanted:
        if not result[split]:
            raise UserError(
                f"{len(samples)} samples are too few: nothing is left for {split}. Add images, or give "
                f"{split} a larger share of data.split_ratio."
            )
    check_classes(result, schema)
    notes += _fewer_in_train(result, schema, per_class, limit_train, seed, strata)
    return result, notes + check_classes(result, schema)


def check_classes(result: Mapping[str, list[Sample]], schema: Mapping[str, TaskInfo]) -> list[str]:
    """Notes on classes that nothing can be learned of, since no training sample has them.

    Raises:
        UserError: there are such where an image is of one class. Where it has many, or none, a rare one may well be
            missing in a part.
    """
    notes = []
    for task, info in schema.items():
        if not info.target_kind.names_classes:
            continue
        absent = {split: set(splits.missing_classes(samples, task, info)) for split, samples in result.items()}
        lacking = [name for name in info.classes if name in absent["train"]]
        nowhere = [name for name in lacking if all(name in absent[split] for split in ("val", "test"))]
        elsewhere = [name for name in lacking if name not in nowhere]
        if lacking and info.target_kind.single_label:
            name = lacking[0]
            here = [split for split in ("val", "test") if name not in absent[split]]
            where = f"is in {' and '.join(here)} but not in train" if here else "has no samples in train"
            others = f" (and {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
            raise UserError(
                f"class {name!r}{others} {where}: nothing to learn it from. Add it to train, or remove the class."
            )
        for names, what in ((elsewhere, "in val or test but not in train"), (nowhere, "in no image at all")):
            if names:
                notes.append(f"{task}: {len(names)} of {len(info.classes)} classes are {what}: {some(names, 5)}")
    return notes


def _as_owned(
    samples: list[Sample], ratio: Mapping[str, float], seed: int, strata: splits.Strata | None
) -> tuple[dict[str, str], list[str]]:
    """The owner's splits, with val carved out of train where there is none."""
    notes = []
    unsaid = sum(sample.split is None for sample in samples)
    if unsaid:
        notes.append(f"{unsaid} samples without a split are left out, since the owner gave others one")
    decided = {sample.path: sample.split for sample in samples if sample.split is not None}
    if "val" not in decided.values():
        train = [sample for sample in samples if sample.split == "train"]
        decided |= splits.carve_val(train, ratio, seed, strata) if train else {}
        notes.append(f"no val split was given: {list(decided.values()).count('val')} samples are taken out of train")
    return decided, notes + _leaks(samples, decided)


def _leaks(samples: list[Sample], decided: Mapping[str, str]) -> list[str]:
    """Notes on images, and on groups, that the owner put into more than one split."""
    pictures: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.path in decided:
            pictures[sample.content].add(decided[sample.path])
            if sample.group is not None:
                groups[sample.group].add(decided[sample.path])
    notes = []
    for what, places in (("identical images", pictures), ("groups", groups)):
        for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
            count = sum({one, other} <= where for where in places.values())
            if count:
                notes.append(f"leak: {count} {what} are in both {one} and {other}; the numbers of {other} flatter")
    return notes


def _fewer_in_train(
    result: dict[str, list[Sample]],
    schema: Mapping[str, TaskInfo],
    per_class: int | None,
    limit_train: int | None,
    seed: int,
    strata: splits.Strata | None,
) -> list[str]:
    """Cut train down as asked, in place; notes on what that left out."""
    notes = []
    if limit_train is not None:
        before = len(result["train"])
        result["train"] = splits.first(result["train"], limit_train, seed, strata)
        if not result["train"]:
            raise UserError(
                f"data.limit_train={limit_train}: the smallest group has more samples; write a larger number"
            )
        notes.append(f"data.limit_train={limit_train}: {before - len(result['train'])} training samples are left out")
    if per_class is not None:
        before = len(result["train"])
        task, info = next(iter(schema.items()))
        if not info.target_kind.single_label:
            raise UserError(f"data.per_class counts images of one class each, {task} has no such: data.limit_train=N")
        classes = splits.strata(result["train"], {task: info})
        result["train"] = splits.few_shot(result["train"], per_class, info.classes, seed, classes)
        notes.append(f"data.per_class={per_class}: {before - len(result['train'])} training samples are left out")
    return notes


def keep_labels(samples: list[Sample], share: float, seed: int) -> list[Sample]:
    """The samples with each task's label kept by about that share of them, drawn by content for each task apart.

    Raises:
        UserError: a share outside 0..1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(f"data.labelled={share}: a share of the training samples, above 0 and at most 1")
    if share == 1:
        return samples

    def kept(sample: Sample) -> dict[str, Any]:
        drawn = {task: derive(seed, "labelled", task, sample.content) / 2**63 for task in sample.targets}
        return {task: target for task, target in sample.targets.items() if drawn[task] < share}

    return [replace(sample, targets=kept(sample)) for sample in samples]
