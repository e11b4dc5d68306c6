"""The splits of a run that was begun before."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from visiontune.data.schema import SPLITS, Sample
from visiontune.errors import UserError


def recorded(
    path: Path, samples: Sequence[Sample], now: Mapping[str, Sequence[Sample]], grown: bool
) -> dict[str, list[Sample]]:
    """The splits of `splits.csv`, of the samples that are there.

    Args:
        now: the splits that the samples would have today.
        grown: whether there may be more than are recorded.

    Raises:
        UserError: a sample recorded there is gone, or has other content now; or there are more.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    here = {sample.path: sample for sample in samples}
    if gone := [row["path"] for row in rows if row["path"] not in here]:
        raise UserError(f"{len(gone)} pictures of this run are no longer there: {', '.join(gone[:5])}")
    if other := [row["path"] for row in rows if row["content"] != here[row["path"]].content]:
        raise UserError(f"{len(other)} pictures are not what they were in this run: {', '.join(other[:5])}")
    known = {row["path"] for row in rows}
    if not grown and (new := [s.path for split in now.values() for s in split if s.path not in known]):
        raise UserError(
            f"{len(new)} pictures are there that this run did not have: {', '.join(new[:5])}. Take them away, or "
            "start a new run from its weights with weights_from="
        )
    return {split: [here[row["path"]] for row in rows if row["split"] == split] for split in SPLITS}
