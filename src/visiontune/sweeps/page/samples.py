"""Validation samples that several runs predict differently."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from torchvision.transforms.functional import to_pil_image

from visiontune.data.images import ImageDecoder
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.predictions import read_predictions

MAX_RUNS, MAX_SAMPLES = 6, 12
LONGEST = 80  # characters of a prediction; boxes as JSON are longer and cannot be compared by eye
SIDE = 96  # pixels of an image at most

Row = dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        path: as in predictions.csv.
        predictions: as text, by the name of the run.
        image: a data URI; empty if the sample has no file that can be read.
    """

    path: str
    truth: str
    predictions: dict[str, str]
    image: str = ""


def compare_predictions(runs: dict[str, RunDirectory], task: str) -> list[Sample]:
    """The samples on which the runs differ, those first whose losses differ most.

    Args:
        runs: by name, the best first; the first `MAX_RUNS` with predictions of the validation split count.
        task: whose predictions are compared.

    Returns:
        Nothing if fewer than two runs have validated the same samples, or if predictions of the task are long texts.
    """
    tables: dict[str, dict[str, Row]] = {}
    for name, run in runs.items():
        rows = read_predictions(run.predictions) if len(tables) < MAX_RUNS else []
        if table := {row["path"]: row for row in rows if row["split"] == "val" and row["task"] == task}:
            tables[name] = table
    if len(tables) < 2:
        return []
    first, *others = tables.values()
    shared = [path for path in first if all(path in table for table in others)]
    differing = [path for path in shared if _differ([table[path] for table in tables.values()])]
    differing.sort(key=lambda path: -_spread([table[path] for table in tables.values()]))
    load = _image_loader(runs[next(iter(tables))])
    return [
        Sample(
            path,
            first[path]["truth"],
            {name: f"{table[path]['prediction']} {table[path]['score'][:4]}".strip() for name, table in tables.items()},
            load(path),
        )
        for path in differing[:MAX_SAMPLES]
    ]


def _differ(rows: list[Row]) -> bool:
    texts = {row["prediction"] for row in rows}
    return len(texts) > 1 and all(len(text) <= LONGEST for text in (*texts, rows[0]["truth"]))


def _spread(rows: list[Row]) -> float:
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    return max(losses, default=0.0) - min(losses, default=0.0)


def _image_loader(run: RunDirectory) -> Callable[[str], str]:
    """A function from the path of a sample to a small image as data URI."""
    data = run.read_config().get("data") or {}
    if not data.get("root"):
        return lambda path: ""
    root, folder = Path(data["root"]), data.get("images")
    folders = [root, *([root / folder] if isinstance(folder, str) else [])]
    decoder = ImageDecoder.from_config({key: data[key] for key in ("orientation", "grey_range") if key in data})

    def load(path: str) -> str:
        files = [place / path for place in folders if ".." not in Path(path).parts and (place / path).is_file()]
        try:
            return _encode(files[0], decoder) if files else ""
        except UserError:  # the file has changed since the training
            return ""

    return load


def _encode(path: Path, decoder: ImageDecoder) -> str:
    image = to_pil_image(decoder(path))
    image.thumbnail((SIDE, SIDE))
    output = BytesIO()
    image.save(output, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(output.getvalue()).decode()}"
