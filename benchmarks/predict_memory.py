"""Peak memory and speed of `visiontune predict`: 200 photos of 24 megapixels, and ordinary photos.

python -m benchmarks.predict_memory [--against DIR]

`--against` measures another checkout in turn, and leaves docs/benchmarks.md unchanged.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.commands import ROOT, Cost, run

DIFFERENT, ROUNDS = 4, 3  # different photos of a set; measurements of the ordinary photos


class PhotoSet(NamedTuple):
    """Photos to predict.

    Attributes:
        size: width and height.
        draw: whether the predictions are drawn.
    """

    name: str
    size: tuple[int, int]
    count: int
    draw: bool
    rounds: int = 1


SETS = (
    PhotoSet("24 megapixels", (6000, 4000), 200, draw=False),
    PhotoSet("24 megapixels, drawn", (6000, 4000), 20, draw=True),
    PhotoSet("1024 x 768", (1024, 768), 600, draw=False, rounds=ROUNDS),
)


def write_photos(folder: Path, size: tuple[int, int], count: int) -> Path:
    """Write a few smooth photos, and copies of them with other bytes at the end."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    contents = []
    for i in range(DIFFERENT):
        coarse = rng.integers(0, 255, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:03d}.jpg", quality=90)
        contents.append((folder / f"{i:03d}.jpg").read_bytes())
    for i in range(DIFFERENT, count):
        (folder / f"{i:03d}.jpg").write_bytes(contents[i % DIFFERENT] + i.to_bytes(2, "big"))
    return folder


def measure(trees: list[Path], folder: Path) -> list[list[str]]:
    """The rows of the table; the trees take turns."""
    runs = []
    for i, tree in enumerate(trees):
        path = folder / f"run{i}"
        settings = ("trainer=cpu", "epochs=1", "data.limit_train=100", "logger=none", f"run_dir={path}")
        run(tree, ["train", "backbone=small_cnn", "data.image_size=224", *settings], OMP_WAIT_POLICY="passive")
        runs.append(path)
    rows = []
    for photos in SETS:
        images = write_photos(folder / photos.name, photos.size, photos.count)
        costs: list[list[Cost]] = [[] for _ in trees]
        for number in range(photos.rounds):
            for i, tree in enumerate(trees):
                output = folder / f"output {photos.name} {number} {i}"
                arguments = ["predict", f"run={runs[i]}", f"input={images}", f"output={output}"]
                arguments.append(f"images={str(photos.draw).lower()}")
                costs[i].append(run(tree, arguments, OMP_WAIT_POLICY="passive"))
        for tree, tree_costs in zip(trees, costs, strict=True):
            seconds = statistics.median(cost.wall for cost in tree_costs)
            memory = max(cost.memory for cost in tree_costs)
            row = [tree.name, photos.name, str(photos.count), f"{seconds:.1f} s"]
            rows.append([*row, f"{photos.count / seconds:.1f}", f"{memory:.0f} MB"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    columns = ["checkout", "photos", "number", "whole command", "images a second", "peak memory"]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure([ROOT, *([options.against.resolve()] if options.against else [])], Path(folder))
    from benchmarks.document import machine, markdown, write_block  # torch: not in the memory of the children

    if options.against:
        print(f"{machine()}.\n\n{markdown(columns, rows)}")
        return
    text = f"{machine()}.\n\n{markdown(columns[1:], [row[1:] for row in rows])}"
    print(text)
    write_block("predict_memory", text)


if __name__ == "__main__":
    main()
