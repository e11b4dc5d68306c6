"""Time and memory of `visiontune plan` on 100,000 small images in 100 classes, with an empty and with a full cache.

python -m benchmarks.many_images [--images 100000] [--folder DIR] [--against DIR]

The images are written to a temporary folder, or to `--folder`, which is kept and used again. `--against` measures
another checkout as well, and leaves docs/benchmarks.md unchanged.
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.commands import ROOT, run

CLASSES, PATTERNS, SIDE = 100, 300, 32
FEW = 2_000  # images of the small set
PLAN = ("plan", "data=image_folder", "trainer=cpu", "backbone=small_cnn", "epochs=1")


def write_images(root: Path, count: int) -> Path:
    """Write `CLASS/NUMBER.jpg`; every file has different bytes."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(PATTERNS):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    for i in range(count):
        path = root / f"class{i % CLASSES:03d}" / f"{i:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[i % PATTERNS] + i.to_bytes(4, "big"))  # decoders ignore bytes after the image
    return root


def measure(tree: Path, folder: Path, count: int) -> list[list[str]]:
    """The rows of the table for the sources of `tree`."""
    rows: list[list[str]] = []
    small = 0.0
    for name, images in ((f"{FEW:,}", folder / "few"), (f"{count:,}", folder / "many")):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "full"):
                cost = run(tree, [*PLAN, f"data.root={images}"], OMP_NUM_THREADS="1", XDG_CACHE_HOME=cache)
                small = small or cost.memory
                above = f"{cost.memory - small:.0f} MB"
                rows.append([name, state, f"{cost.wall:.1f} s", f"{cost.cpu:.1f} s", f"{cost.memory:.0f} MB", above])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the images are, or are written; they are kept")
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name, count in (("few", FEW), ("many", options.images)):
            if not (folder / name).is_dir():
                write_images(folder / name, count)
        columns = ["images", "cache", "wall time", "CPU time", "peak memory", "above the small set"]
        trees = [ROOT, *([options.against.resolve()] if options.against else [])]
        tables = [measure(tree, folder, options.images) for tree in trees]
    from benchmarks.document import machine, markdown, write_block  # torch: not in the memory of the children

    text = "\n\n".join(f"{machine()}.\n\n{markdown(columns, rows)}" for rows in tables)
    print(text)
    if not options.against and options.images == 100_000:
        write_block("many_images", text)


if __name__ == "__main__":
    main()
