"""Check that splits can be trained and compared, before the training begins."""

from collections.abc import Mapping, Sequence

from visiontune.data import splits
from visiontune.data.readers.folders import SPLIT_NAMES
from visiontune.data.schema import Sample, TaskInfo
from visiontune.errors import UserError, some

ADVICE = "Add it to train, or remove the class."


def check_classes(
    result: Mapping[str, list[Sample]],
    schema: Mapping[str, TaskInfo],
    advice: str = ADVICE,
) -> list[str]:
    """Notes on classes that no training sample has.

    Args:
        advice: the end of the error message.

    Raises:
        UserError: a class of a single-label task has no training sample. In other tasks a rare class may be absent
            from a split.
    """
    notes = []
    for task, info in schema.items():
        if not info.target_kind.names_classes:
            continue
        absent = {split: set(splits.missing_classes(samples, task, info)) for split, samples in result.items()}
        untrained = [name for name in info.classes if name in absent["train"]]
        nowhere = [name for name in untrained if all(name in absent[split] for split in ("val", "test"))]
        elsewhere = [name for name in untrained if name not in nowhere]
        if untrained and info.target_kind.single_label:
            name = untrained[0]
            present = [split for split in ("val", "test") if name not in absent[split]]
            where = f"is in {' and '.join(present)} but not in train" if present else "has no samples in train"
            others = f" (and {len(untrained) - 1} more classes)" if len(untrained) > 1 else ""
            raise UserError(f"class {name!r}{others} {where}: nothing to learn it from. {advice}")
        for names, what in ((elsewhere, "in val or test but not in train"), (nowhere, "in no image at all")):
            if names:
                notes.append(f"{task}: {len(names)} of {len(info.classes)} classes are {what}: {some(names, 5)}")
    return notes


def check_val(samples: Sequence[Sample], schema: Mapping[str, TaskInfo]) -> None:
    """Raises UserError if the metrics of a task cannot tell better epochs from worse ones on these val samples."""
    for task, info in schema.items():
        targets = [sample.targets.get(task) for sample in samples]
        if not info.decides(targets):
            evidence = "label" if all(target is None for target in targets) else info.target_kind.evidence
            raise UserError(
                f"the val split has no {evidence} of {task} in its {len(samples)} images, so no epoch "
                "can be called the best. Label images of val, or move labelled images there: data.splits=DIR with "
                "train.txt and val.txt, or a larger share such as "
                "data.split_ratio='{train: 0.6, val: 0.25, test: 0.15}' if the data set has no splits."
            )


def note_split_folders(samples: Sequence[Sample]) -> list[str]:
    """A note on folders such as `images/train` and `images/test` in the paths of samples that have no split."""
    examples: dict[str, str] = {}  # split -> path
    for sample in samples:
        for folder in sample.path.lower().split("/")[:-1]:
            if split := SPLIT_NAMES.get(folder):
                examples.setdefault(split, sample.path)
    if "train" not in examples or len(examples) < 2:
        return []
    return [
        f"folders {' and '.join(sorted(examples))} in the paths of images are not used as splits, such as those of "
        f"{some(list(examples.values()))}; to use them, write data.splits=DIR with train.txt, val.txt and test.txt"
    ]
