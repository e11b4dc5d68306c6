"""Assign every sample to train, val or test."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from visiontune.data import splits
from visiontune.data.label_notes import label_notes
from visiontune.data.schema import SPLITS, Sample, TaskInfo
from visiontune.data.seeding import derive
from visiontune.data.split_checks import ADVICE, check_classes, check_val, note_split_folders
from visiontune.errors import UserError

Assignment = tuple[dict[str, list[Sample]], list[str]]  # split -> samples sorted by path, and notes


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
) -> Assignment:
    """Decide every sample's split.

    The splits of the data set are used unless `folds` is set. If it has no val split, part of train becomes val; if it
    has no test split, there is none.

    Returns:
        split -> samples sorted by path, and notes on what was decided or left out.

    Raises:
        UserError: the ratio or the folds are invalid, the data set has splits but no train split, a split is empty, a
            class has no training samples, the val split can decide nothing, or `per_class` is larger than the number of
            samples of a class. With `folds`, an error of one fold is that of all.
    """
    splits.check_ratio(ratio)
    if (fold is None) != (folds is None):
        raise UserError("k-fold needs both: data.fold=0 data.folds=5 (fold goes from 0 to folds - 1)")
    if fold is not None and folds is not None and not 0 <= fold < folds:
        raise UserError(f"data.fold={fold} data.folds={folds}: fold goes from 0 to folds - 1; write data.fold=0")
    has_splits = any(sample.split for sample in samples)
    strata = splits.strata(samples, schema) if stratify else None
    ordered = sorted(samples, key=lambda sample: sample.path)

    def finish(assignment: Mapping[str, str], required: Sequence[str], advice: str = ADVICE) -> Assignment:
        """Check an assignment, and reduce its train split."""
        result: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for sample in ordered:
            if split := assignment.get(sample.path):
                result[split].append(sample)
        for split in required:
            if not result[split]:
                raise UserError(
                    f"{len(samples)} samples are too few: nothing is left for {split}. Add images, or give "
                    f"{split} a larger share of data.split_ratio."
                )
        check_classes(result, schema, advice)
        check_val(result["val"], schema)
        notes = _reduce_train(result, schema, per_class, limit_train, seed, strata)
        return result, notes + check_classes(result, schema)

    notes: list[str] = []
    if fold is not None and folds is not None:
        notes += ["the splits of the data set are ignored: k-fold uses all samples"] if has_splits else []
        result, new_notes = _assign_fold(splits.k_folds(samples, folds, ratio, seed, strata), fold, folds, finish)
    elif has_splits:
        assignment, notes = _keep_dataset_splits(samples, ratio, seed, strata)
        result, new_notes = finish(assignment, ("train", "val"))
    else:
        assignment = splits.by_ratio(samples, ratio, seed, strata)
        result, new_notes = finish(assignment, [split for split in SPLITS if ratio.get(split, 0) > 0])
        notes += note_split_folders(ordered)
    return result, notes + new_notes + label_notes(ordered, schema)


def _assign_fold(
    assignments: Iterable[Mapping[str, str]],
    fold: int,
    folds: int,
    finish: Callable[[Mapping[str, str], Sequence[str], str], Assignment],
) -> Assignment:
    """The splits of one fold; every fold is checked, so that all jobs of a cross-validation are refused alike."""
    advice = (
        "Each class needs two images or more, which are not copies and have different groups, since a fold tests a "
        "part of them: add images, or remove the class."
    )
    selected: Assignment = {}, []
    for number, assignment in enumerate(assignments):
        try:
            outcome = finish(assignment, SPLITS, advice)
        except UserError as error:
            raise UserError(
                f"data.folds={folds}: fold {number} cannot be trained, so none of them starts: {error}"
            ) from None
        if number == fold:
            selected = outcome
    return selected


def _keep_dataset_splits(
    samples: list[Sample], ratio: Mapping[str, float], seed: int, strata: splits.Strata | None
) -> tuple[dict[str, str], list[str]]:
    """The splits of the data set; part of train becomes val if there is no val split."""
    notes = []
    names = {sample.split for sample in samples if sample.split is not None}
    if "train" not in names:
        raise UserError(
            f"the data set has a {' and a '.join(sorted(names))} split, but no train split: add one, or write "
            "data.fold=0 data.folds=5 to ignore its splits"
        )
    unassigned = sum(sample.split is None for sample in samples)
    if unassigned:
        notes.append(f"{unassigned} samples without a split are left out, since other samples have one")
    assignment = {sample.path: sample.split for sample in samples if sample.split is not None}
    if "val" not in names:
        train = [sample for sample in samples if sample.split == "train"]
        assignment |= splits.carve_val(train, ratio, seed, strata)
        count = list(assignment.values()).count("val")
        notes.append(f"the data set has no val split: {count} training samples become val")
    return assignment, notes + _leaks(samples, assignment)


def _leaks(samples: list[Sample], assignment: Mapping[str, str]) -> list[str]:
    """Notes on images and groups that are in more than one split of the data set."""
    image_splits: dict[str, set[str]] = defaultdict(set)
    group_splits: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.path in assignment:
            image_splits[sample.content].add(assignment[sample.path])
            if sample.group is not None:
                group_splits[sample.group].add(assignment[sample.path])
    notes = []
    for what, places in (("identical images", image_splits), ("groups", group_splits)):
        for first, second in (("train", "test"), ("train", "val"), ("val", "test")):
            count = sum({first, second} <= sample_splits for sample_splits in places.values())
            if count:
                notes.append(
                    f"leak: {count} {what} are in both {first} and {second}; the {second} metrics are too optimistic"
                )
    return notes


def _reduce_train(
    result: dict[str, list[Sample]],
    schema: Mapping[str, TaskInfo],
    per_class: int | None,
    limit_train: int | None,
    seed: int,
    strata: splits.Strata | None,
) -> list[str]:
    """Apply `limit_train` and `per_class` to the train split in place; returns notes on the samples left out."""
    notes = []
    if limit_train is not None:
        before = len(result["train"])
        result["train"] = splits.select_samples(result["train"], limit_train, seed, strata)
        if not result["train"]:
            raise UserError(
                f"data.limit_train={limit_train}: a group has more samples; write a larger number, such as "
                f"data.limit_train={10 * limit_train}"
            )
        check_classes(result, schema, advice=f"Write a larger number, such as data.limit_train={10 * limit_train}.")
        notes.append(f"data.limit_train={limit_train}: {before - len(result['train'])} training samples are left out")
    if per_class is not None:
        before = len(result["train"])
        task, info = next(iter(schema.items()))
        if not info.target_kind.single_label:
            raise UserError(
                f"data.per_class needs images with one class each, but {task} does not have them; "
                "write data.limit_train=100"
            )
        classes = splits.strata(result["train"], {task: info})
        result["train"] = splits.few_shot(result["train"], per_class, info.classes, seed, classes)
        notes.append(f"data.per_class={per_class}: {before - len(result['train'])} training samples are left out")
    return notes


def keep_labels(samples: list[Sample], share: float, seed: int) -> list[Sample]:
    """Keep each task's label for about `share` of the samples and remove it from the others.

    The draw depends on the image content, and is independent for each task.

    Args:
        share: above 0 and at most 1.
    """
    if share == 1:
        return samples

    def draw_targets(sample: Sample) -> dict[str, Any]:
        draws = {task: derive(seed, "labelled", task, sample.content) / 2**63 for task in sample.targets}
        return {task: target for task, target in sample.targets.items() if draws[task] < share}

    return [replace(sample, targets=draw_targets(sample)) for sample in samples]
