"""The splits of a run: `splits.csv`, written when it is begun and read whenever it is taken up again."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from visiontune.data.fingerprint import fingerprint
from visiontune.data.schema import SPLITS, Sample, TaskInfo
from visiontune.errors import UserError


def split_rows(
    splits: Mapping[str, Sequence[Sample]], samples: Sequence[Sample], schema: Mapping[str, TaskInfo]
) -> list[dict[str, str]]:
    """The rows of `splits.csv`: path, split, group, and hashes of the image and of its labels.

    Args:
        samples: with the labels that are there, of which a split may have been given a share alone.
    """
    whole = {sample.path: sample for sample in samples}
    return [
        {
            "path": sample.path,
            "split": split,
            "group": sample.group or "",
            "content": sample.content,
            "labels": _labels(whole[sample.path], schema),
        }
        for split, chosen in splits.items()
        for sample in chosen
    ]


def _labels(sample: Sample, schema: Mapping[str, TaskInfo]) -> str:
    """By name where an image has one class: its number is another where a class has come before it."""
    named = {}
    for task, target in sample.targets.items():
        classes = schema[task].classes
        named[task] = classes[target] if isinstance(target, int) and target < len(classes) else target
    return fingerprint(named)


def recorded(
    path: Path,
    samples: Sequence[Sample],
    schema: Mapping[str, TaskInfo],
    now: Mapping[str, Sequence[Sample]],
    grown: bool,
) -> dict[str, list[Sample]]:
    """The splits of `splits.csv`, of the samples that are there.

    Args:
        now: the splits that the samples would have today.
        grown: whether there may be more than are recorded, and other labels.

    Raises:
        UserError: a sample recorded there is gone, or has other content or labels now; or there are more.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    here = {sample.path: sample for sample in samples}
    if gone := [row["path"] for row in rows if row["path"] not in here]:
        raise UserError(f"{len(gone)} images of this run are no longer there: {', '.join(gone[:5])}")
    if other := [row["path"] for row in rows if row["content"] != here[row["path"]].content]:
        raise UserError(f"{len(other)} images are not what they were in this run: {', '.join(other[:5])}")
    anew = f"start a new run from its weights with weights_from={path.parent}"
    # A run of an older version has no hashes of labels.
    said = {} if grown else {row["path"]: row["labels"] for row in rows if row.get("labels")}
    if relabelled := [name for name, labels in said.items() if labels != _labels(here[name], schema)]:
        raise UserError(
            f"{len(relabelled)} images have other labels than in this run: {', '.join(relabelled[:5])}. Put those "
            f"back, or {anew}"
        )
    known = {row["path"] for row in rows}
    if not grown and (new := [s.path for split in now.values() for s in split if s.path not in known]):
        raise UserError(
            f"{len(new)} images are there that this run did not have: {', '.join(new[:5])}. Take them away, or {anew}"
        )
    return {split: [here[row["path"]] for row in rows if row["split"] == split] for split in SPLITS}
