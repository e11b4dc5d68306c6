"""Who trains, who validates, who tests: pure functions of the samples' content and a seed.

The unit that moves is never a file but everything that belongs together: samples of one group, and samples with
identical images. Units stand in an order given by hash(seed, content), so neither names nor file order matter.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from visiontune.data.schema import SPLITS, Sample, TaskInfo
from visiontune.data.seeding import derive
from visiontune.errors import UserError

Strata = Mapping[str, int | None]  # path -> the class a sample is shared out by; a path that is not in it has none


@dataclass(frozen=True)
class Unit:
    """Samples that must share a split, with the stratum most of them have (None where there is none)."""

    key: int
    stratum: int | None
    samples: tuple[Sample, ...]


def strata(samples: list[Sample], schema: Mapping[str, TaskInfo]) -> dict[str, int | None]:
    """path -> the class of each sample; where it has several, the one that the fewest samples have.

    The first task of the schema that has classes decides; a sample without a label of it has None.
    """
    for task, info in schema.items():
        labels = {sample.path: set(info.labels(sample.targets.get(task))) for sample in samples}
        frequency = Counter(label for found in labels.values() for label in found)
        if frequency:
            return {
                path: min(found, key=lambda label: (frequency[label], label), default=None)
                for path, found in labels.items()
            }
    return {}


def by_ratio(
    samples: list[Sample], ratio: Mapping[str, float], seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """Split by shares that sum to 1; each stratum is shared out alike, the totals are right to one unit.

    Every unit gets its place within its stratum, from 0 to 1, and the list sorted by that place is cut once: this keeps
    the totals exact even for classes of two or three, where cutting class by class would round every one of them.

    Returns:
        path -> split.
    """
    places: list[tuple[float, int, Unit]] = []
    for units in _units(samples, seed, strata).values():
        total = sum(len(unit.samples) for unit in units)
        before = 0
        for unit in units:
            places.append(((before + len(unit.samples) / 2) / total, unit.key, unit))
            before += len(unit.samples)
    places.sort(key=lambda place: place[:2])
    # Test first and train last, so that the only unit of a class (place 0.5) trains.
    result: dict[str, str] = {}
    done = 0
    test_until = ratio.get("test", 0.0) * len(samples)
    val_until = test_until + ratio.get("val", 0.0) * len(samples)
    for _, _, unit in places:
        middle = done + len(unit.samples) / 2
        split = "test" if middle <= test_until else "val" if middle <= val_until else "train"
        result.update({sample.path: split for sample in unit.samples})
        done += len(unit.samples)
    return result


def k_fold(
    samples: list[Sample],
    fold: int,
    folds: int,
    ratio: Mapping[str, float],
    seed: int,
    strata: Strata | None = None,
) -> dict[str, str]:
    """Fold `fold` (from 0) of `folds` is the test split; over all folds each sample is tested exactly once.

    Of the rest, val takes the share val / (train + val) of the ratio, in a draw of its own for each fold: the val
    splits of two folds have no more in common than chance gives.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(f"data.fold={fold} data.folds={folds}: folds is 2 or more, and fold goes from 0 to folds - 1")
    units = sorted((unit for units in _units(samples, seed, strata).values() for unit in units), key=lambda u: u.key)
    if len(units) < folds:
        raise UserError(f"data.folds={folds}: there are {len(units)} images or groups; write {len(units)} or less")
    held = {sample.path for unit in _fold(units, fold, folds, strata or {}) for sample in unit.samples}
    rest = [sample for sample in samples if sample.path not in held]
    # Drawn anew for each fold: one draw for all would give two folds nearly the same val split.
    return dict.fromkeys(held, "test") | carve_val(rest, ratio, derive(seed, "val of fold", fold), strata)


def _fold(units: list[Unit], fold: int, folds: int, strata: Strata) -> list[Unit]:
    """Fold `fold` of the units, which stand in the order of their hash.

    scikit-learn's StratifiedKFold where every unit is one sample; where there are groups or copies
    StratifiedGroupKFold, which is slower by a factor of thousands (ten seconds for 20,000 groups).
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    numbers = [number for number, unit in enumerate(units) for _ in unit.samples]
    labels = [strata.get(sample.path) for unit in units for sample in unit.samples]
    labels = [-1 if label is None else label for label in labels]
    if max(Counter(labels).values()) < folds:  # no class reaches every fold: nothing to stratify by
        labels = [0] * len(labels)
    splitter = (StratifiedKFold if len(numbers) == len(units) else StratifiedGroupKFold)(folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer samples than folds
        _, held = next(islice(splitter.split(labels, labels, numbers), fold, None))
    return [units[number] for number in sorted({numbers[i] for i in held})]


def carve_val(
    samples: list[Sample], ratio: Mapping[str, float], seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """Train and val out of samples that are all for training, in the ratio's own proportion of the two."""
    share = ratio["val"] / (ratio["train"] + ratio["val"])
    return by_ratio(samples, {"train": 1 - share, "val": share}, seed, strata)


def few_shot(samples: list[Sample], per_class: int, classes: list[str], seed: int, strata: Strata) -> list[Sample]:
    """`per_class` samples of each class (as `strata` says), the first by hash; samples without one are left out.

    Raises:
        UserError: a class has fewer.
    """
    if per_class < 1:
        raise UserError(f"data.per_class={per_class}: write 1 or more, or null for all samples")
    samples_per_class: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        samples_per_class[strata.get(sample.path)].append(sample)
    kept = []
    for label, name in enumerate(classes):
        mine = sorted(samples_per_class[label], key=lambda sample: (derive(seed, "shot", sample.content), sample.path))
        if len(mine) < per_class:
            raise UserError(
                f"data.per_class={per_class}: class {name!r} has {len(mine)} training samples. "
                f"Write data.per_class={len(mine)} or less, or null for all samples."
            )
        kept += mine[:per_class]
    return sorted(kept, key=lambda sample: sample.path)


def first(samples: list[Sample], count: int, seed: int, strata: Strata | None = None) -> list[Sample]:
    """About `count` samples with the strata in their proportion; all of them where there are no more."""
    if count < 1:
        raise UserError(f"data.limit_train={count}: write 1 or more, or null for all samples")
    if count >= len(samples):
        return samples
    chosen = by_ratio(samples, {"test": count / len(samples)}, seed, strata)
    return [sample for sample in samples if chosen[sample.path] == "test"]


def check_ratio(ratio: Mapping[str, float]) -> None:
    """Raises UserError unless the shares are of train, val and test, sum to 1, and train and val have some."""
    example = "Write for instance data.split_ratio={train: 0.7, val: 0.15, test: 0.15}"
    if set(ratio) - set(SPLITS) or min(ratio.get("train", 0), ratio.get("val", 0)) <= 0 or ratio.get("test", 0) < 0:
        raise UserError(
            f"data.split_ratio={dict(ratio)}: train and val need a share above 0, test 0 or more. {example}"
        )
    if abs(sum(ratio.values()) - 1) > 1e-6:
        raise UserError(f"data.split_ratio={dict(ratio)} sums to {sum(ratio.values()):g} instead of 1. {example}")


def _units(samples: list[Sample], seed: int, strata: Strata | None) -> dict[int | None, list[Unit]]:
    """The units of each stratum, in the order of their hash; one stratum of all where not stratified."""
    found: dict[int | None, list[Unit]] = defaultdict(list)
    for members in _together(samples):
        stratum = _stratum(members, strata or {})
        key = derive(seed, min(sample.content for sample in members))
        found[stratum].append(Unit(key, stratum, tuple(members)))
    ordered = sorted(found.items(), key=lambda item: (item[0] is None, item[0] or 0))
    return {stratum: sorted(units, key=lambda unit: unit.key) for stratum, units in ordered}


def _together(samples: list[Sample]) -> list[list[Sample]]:
    """Samples joined by an equal group or equal content, however long the chain (union-find)."""
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
    """The stratum most samples have, the smallest of equals; None where none has one."""
    said = Counter(stratum for sample in members if (stratum := strata.get(sample.path)) is not None)
    return min(said, key=lambda stratum: (-said[stratum], stratum)) if said else None


def missing_classes(samples: list[Sample], task: str, info: TaskInfo) -> list[str]:
    """The names of the classes that no sample has."""
    present = {label for sample in samples for label in info.labels(sample.targets.get(task))}
    return [name for label, name in enumerate(info.classes) if label not in present]
