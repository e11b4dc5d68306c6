"""The splits of a run: `splits.csv`, written at its start and read when it is resumed or evaluated."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from visiontune.data.fingerprint import fingerprint
from visiontune.data.schema import SPLITS, Sample, TaskInfo
from visiontune.errors import UserError, pluralize, shell_override, some


def split_rows(
    splits: Mapping[str, Sequence[Sample]], samples: Sequence[Sample], schema: Mapping[str, TaskInfo]
) -> list[dict[str, str]]:
    """The rows of `splits.csv`: path, split, group, and hashes of the image and of its labels.

    Args:
        samples: all samples with all their labels; those in `splits` may have fewer (`data.labelled`).
    """
    samples_by_path = {sample.path: sample for sample in samples}
    return [
        {
            "path": sample.path,
            "split": split,
            "group": sample.group or "",
            "content": sample.content,
            "labels": _labels(samples_by_path[sample.path], schema),
        }
        for split, members in splits.items()
        for sample in members
    ]


def _labels(sample: Sample, schema: Mapping[str, TaskInfo]) -> str:
    """A hash of the labels. Classes are hashed by name, since their number changes when a class is added."""
    named = {}
    for task, target in sample.targets.items():
        classes = schema[task].classes
        named[task] = classes[target] if isinstance(target, int) and target < len(classes) else target
    return fingerprint(named)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a run's `splits.csv`.

    Raises:
        UserError: it cannot be read, or a row lacks its path, split or content.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for line, row in enumerate(rows, 2):
        if any(not isinstance(row.get(name), str) for name in ("path", "split", "content")):
            raise UserError(f"{path}, line {line}: expected the columns path, split and content")
    return rows


def read_splits(
    path: Path,
    samples: Sequence[Sample],
    schema: Mapping[str, TaskInfo],
    current: Mapping[str, Sequence[Sample]],
    grown: bool,
) -> dict[str, list[Sample]]:
    """Assign the samples to the splits of a run's `splits.csv`.

    Args:
        current: the splits of the samples in a new run.
        grown: whether new samples and changed labels are allowed.

    Raises:
        UserError: a sample of the file is missing or has changed; or, unless `grown`, labels have changed or there are
            new samples.
    """
    rows = read_rows(path)
    samples_by_path = {sample.path: sample for sample in samples}
    if missing := [row["path"] for row in rows if row["path"] not in samples_by_path]:
        count = pluralize(len(missing), "image", "images")
        raise UserError(f"{count} of this run cannot be found or read: {some(missing, 5)}")
    if changed := [row["path"] for row in rows if row["content"] != samples_by_path[row["path"]].content]:
        count = pluralize(len(changed), "image has", "images have")
        raise UserError(f"{count} changed since this run started: {some(changed, 5)}")
    alternative = f"start a new run from its weights with {shell_override('weights_from', path.parent)}"
    # Runs of older versions have no hashes of labels.
    label_hashes = {} if grown else {row["path"]: row["labels"] for row in rows if row.get("labels")}
    if relabelled := [
        name for name, labels in label_hashes.items() if labels != _labels(samples_by_path[name], schema)
    ]:
        count = pluralize(len(relabelled), "image has", "images have")
        raise UserError(f"{count} other labels than in this run: {some(relabelled, 5)}. Restore them, or {alternative}")
    known = {row["path"] for row in rows}
    if not grown and (new := [s.path for split in current.values() for s in split if s.path not in known]):
        count = pluralize(len(new), "image is", "images are")
        raise UserError(f"{count} new since this run started: {some(new, 5)}. Remove them, or {alternative}")
    return {split: [samples_by_path[row["path"]] for row in rows if row["split"] == split] for split in SPLITS}
