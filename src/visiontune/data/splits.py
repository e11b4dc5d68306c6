"""Split samples into train, val and test: pure functions of their content and a seed.

Splits assign units, not single samples: all samples of a group, or with identical images, belong to one unit. Units are
ordered by hash(seed, content), so that file names and file order do not matter.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from visiontune.data.schema import SPLITS, Sample, TaskInfo
from visiontune.data.seeding import derive
from visiontune.errors import UserError

Strata = Mapping[str, int | None]  # path -> the class to stratify a sample by; a missing path has none


@dataclass(frozen=True, slots=True)
class Unit:
    """Samples that must be in the same split, and the most frequent stratum among them (None if they have none)."""

    key: int
    stratum: int | None
    samples: tuple[Sample, ...]


def strata(samples: list[Sample], schema: Mapping[str, TaskInfo]) -> dict[str, int | None]:
    """path -> class of each sample; of several classes, the one that the fewest samples have.

    It uses the first task of the schema with class labels; samples without a label for it have None.
    """
    for task, info in schema.items():
        labels = {sample.path: tuple(set(info.labels(sample.targets.get(task)))) for sample in samples}
        frequency = Counter(label for sample_labels in labels.values() for label in sample_labels)
        if frequency:
            return {
                path: min(sample_labels, key=lambda label: (frequency[label], label), default=None)
                for path, sample_labels in labels.items()
            }
    return {}


def by_ratio(
    samples: list[Sample], ratio: Mapping[str, float], seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """Split by shares that sum to 1, in each stratum alike; the totals are exact up to one unit.

    Every unit gets its relative position in its stratum, 0 to 1, and the list sorted by position is cut once. So the
    totals are exact even with classes of two or three samples, while cutting each class would round each of them.

    Returns:
        path -> split.
    """
    positions: list[tuple[float, int, Unit]] = []
    for units in _units(samples, seed, strata).values():
        total = sum(len(unit.samples) for unit in units)
        before = 0
        for unit in units:
            positions.append(((before + len(unit.samples) / 2) / total, unit.key, unit))
            before += len(unit.samples)
    positions.sort(key=lambda item: item[:2])
    # Test is first and train last, so that the only unit of a class (position 0.5) is in train.
    result: dict[str, str] = {}
    done = 0
    test_until = ratio.get("test", 0.0) * len(samples)
    val_until = test_until + ratio.get("val", 0.0) * len(samples)
    for _, _, unit in positions:
        middle = done + len(unit.samples) / 2
        split = "test" if middle <= test_until else "val" if middle <= val_until else "train"
        result.update({sample.path: split for sample in unit.samples})
        done += len(unit.samples)
    return result


def k_folds(
    samples: list[Sample], folds: int, ratio: Mapping[str, float], seed: int, strata: Strata | None = None
) -> Iterator[dict[str, str]]:
    """path -> split for each fold; over all folds, each sample is in test exactly once.

    A share val / (train + val) of the other samples becomes val. Each fold has an independent draw, so that the val
    splits of two folds overlap only by chance.

    Raises:
        UserError: there are fewer images or groups than folds.
    """
    units = sorted((unit for units in _units(samples, seed, strata).values() for unit in units), key=lambda u: u.key)
    if len(units) < folds:
        raise UserError(f"data.folds={folds}: there are {len(units)} images or groups; write {len(units)} or less")
    for fold, test_units in enumerate(_test_units(units, folds, strata or {})):
        assignment = {sample.path: "test" for unit in test_units for sample in unit.samples}
        remaining = [sample for sample in samples if sample.path not in assignment]
        # With the same seed, all folds would have nearly the same val split.
        yield assignment | carve_val(remaining, ratio, derive(seed, "val of fold", fold), strata)


def _test_units(units: list[Unit], folds: int, strata: Strata) -> Iterator[list[Unit]]:
    """The test units of each fold; the units are ordered by their hash.

    If every unit is a single sample, it uses scikit-learn's StratifiedKFold, otherwise StratifiedGroupKFold, which is
    thousands of times slower (ten seconds for 20,000 groups).
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    numbers = [number for number, unit in enumerate(units) for _ in unit.samples]
    labels = [strata.get(sample.path) for unit in units for sample in unit.samples]
    labels = [-1 if label is None else label for label in labels]
    if max(Counter(labels).values()) < folds:  # no class has a sample for every fold: do not stratify
        labels = [0] * len(labels)
    splitter = (StratifiedKFold if len(numbers) == len(units) else StratifiedGroupKFold)(folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes with fewer samples than folds
        indices = [test_indices for _, test_indices in splitter.split(labels, labels, numbers)]
    for test_indices in indices:
        yield [units[number] for number in sorted({numbers[i] for i in test_indices})]


def carve_val(
    samples: list[Sample], ratio: Mapping[str, float], seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """Split training samples into train and val, in the proportion of these two in the ratio."""
    share = ratio["val"] / (ratio["train"] + ratio["val"])
    return by_ratio(samples, {"train": 1 - share, "val": share}, seed, strata)


def few_shot(samples: list[Sample], per_class: int, classes: list[str], seed: int, strata: Strata) -> list[Sample]:
    """`per_class` samples of each class in `strata`, the first by hash; samples without a class are left out.

    Raises:
        UserError: a class has fewer samples.
    """
    samples_per_class: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        samples_per_class[strata.get(sample.path)].append(sample)
    selected = []
    for label, name in enumerate(classes):
        candidates = sorted(
            samples_per_class[label], key=lambda sample: (derive(seed, "shot", sample.content), sample.path)
        )
        if len(candidates) < per_class:
            raise UserError(
                f"data.per_class={per_class}: class {name!r} has {len(candidates)} training samples. "
                f"Write data.per_class={len(candidates)} or less, or null for all samples."
            )
        selected += candidates[:per_class]
    return sorted(selected, key=lambda sample: sample.path)


def select_samples(samples: list[Sample], count: int, seed: int, strata: Strata | None = None) -> list[Sample]:
    """About `count` samples, stratified; all samples if there are not more."""
    if count >= len(samples):
        return samples
    assignment = by_ratio(samples, {"test": count / len(samples)}, seed, strata)
    return [sample for sample in samples if assignment[sample.path] == "test"]


def check_ratio(ratio: Mapping[str, float]) -> None:
    """Raises UserError unless the shares of train, val and test sum to 1, and those of train and val are positive."""
    example = "Write for instance data.split_ratio={train: 0.7, val: 0.15, test: 0.15}"
    if set(ratio) - set(SPLITS) or min(ratio.get("train", 0), ratio.get("val", 0)) <= 0 or ratio.get("test", 0) < 0:
        raise UserError(
            f"data.split_ratio={dict(ratio)}: train and val need a share above 0, test 0 or more. {example}"
        )
    if abs(sum(ratio.values()) - 1) > 1e-6:
        raise UserError(f"data.split_ratio={dict(ratio)} sums to {sum(ratio.values()):g} instead of 1. {example}")


def _units(samples: list[Sample], seed: int, strata: Strata | None) -> dict[int | None, list[Unit]]:
    """The units of each stratum, ordered by hash; without strata, all units are in one stratum."""
    units_by_stratum: dict[int | None, list[Unit]] = defaultdict(list)
    for members in _together(samples):
        stratum = _stratum(members, strata or {})
        key = derive(seed, min(sample.content for sample in members))
        units_by_stratum[stratum].append(Unit(key, stratum, tuple(members)))
    ordered = sorted(units_by_stratum.items(), key=lambda item: (item[0] is None, item[0] or 0))
    return {stratum: sorted(units, key=lambda unit: unit.key) for stratum, units in ordered}


def _together(samples: list[Sample]) -> list[list[Sample]]:
    """Connected components of samples that share a group or their content (union-find)."""
    if all(sample.group is None for sample in samples):
        same_content: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            same_content[sample.content].append(sample)
        return list(same_content.values())
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def find(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for sample in samples:
        if sample.group is not None:
            parent[find(("group", sample.group))] = find(("content", sample.content))
    units: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        units[find(("content", sample.content))].append(sample)
    return list(units.values())


def _stratum(members: list[Sample], strata: Strata) -> int | None:
    """The most frequent stratum, the smallest one in a tie; None if no sample has one."""
    frequency = Counter(stratum for sample in members if (stratum := strata.get(sample.path)) is not None)
    return min(frequency, key=lambda stratum: (-frequency[stratum], stratum)) if frequency else None


def missing_classes(samples: list[Sample], task: str, info: TaskInfo) -> list[str]:
    """The names of the classes that no sample has."""
    present = {label for sample in samples for label in info.labels(sample.targets.get(task))}
    return [name for label, name in enumerate(info.classes) if label not in present]
