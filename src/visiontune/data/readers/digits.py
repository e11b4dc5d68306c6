"""The 1,797 real handwritten digits of 8x8 pixels that scikit-learn contains (UCI ML, test part)."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from visiontune.data.schema import Sample, Source, TaskInfo


def read(task: str = "classification") -> Source:
    """All digits as `(1, 8, 8)` uint8; the file's 0..16 becomes 0..255."""
    pixels, labels = load_digits()
    images = torch.from_numpy(pixels * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    samples = [
        Sample(path=f"digits/{i:04d}", targets={task: int(label)}, image=image)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return Source(schema={task: TaskInfo("classification", [str(digit) for digit in range(10)])}, samples=samples)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: images `(1797, 8, 8)` of 0..16, and labels `(1797,)`.

    The file is read without scikit-learn, whose import takes 0.7 s, longer than everything else that `plan` does.
    """
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = np.array([line.split(",") for line in file], dtype=np.float64)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
