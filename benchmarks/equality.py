"""torchvision's detectors and segmenters against ours, built from configs/pretrained and with the same weights.

python -m benchmarks.equality [NAME ...] [--steps 10]

The weights are random, and no image has the size of another. The columns are the largest differences over five images:
raw outputs (relative above 1), boxes in pixels, masks (those of objects; of a segmenter, the fraction of pixels with
another class), losses (relative), and weights after the training steps, by SGD with momentum. Dropout and the draws of
sampled boxes have the same seeds. Without names, the table in docs/pretrained.md is written; it takes about
ten minutes on a CPU.
"""

import argparse
from typing import Any

import torch
from torch import nn
from torchvision import models

from benchmarks import library_detectors, library_segmenters
from benchmarks.document import DOCS, markdown, write_block
from benchmarks.latency import read_tasks

PAGE = DOCS / "pretrained.md"
STEPS = 10
LIMITS = {"outputs": 1e-5, "boxes": 1e-3, "scores": 1e-5, "masks": 1e-5, "losses": 1e-5, "weights": 1e-4}
COLUMNS = ("outputs", "boxes", "masks", "losses", "weights")


def build_pair(name: str, task: str) -> Any:
    """The library's model and ours."""
    return (library_segmenters.SegmenterPair if task == "segmentation" else library_detectors.DetectorPair)(name)


def compare_images(pair: Any) -> dict[str, float]:
    """The largest differences over five images of different sizes; `objects` is the number of all objects."""
    module = library_segmenters if isinstance(pair, library_segmenters.SegmenterPair) else library_detectors
    results = [pair.compare(size) for size in module.SIZES]
    largest = {key: max(result[key] for result in results) for key in results[0] if key != "objects"}
    return largest | {"objects": sum(result.get("objects", 0) for result in results)}


def compare_training(pair: Any, steps: int) -> tuple[float, dict[str, float]]:
    """Train both models with the same optimizer.

    Returns:
        The largest difference of their weights and statistics, and the largest change of a weight of the backbone and
        of the heads.
    """
    pair.train()
    pair.library.requires_grad_()
    before = {key: value.clone() for key, value in pair.ours.state_dict().items()}
    pairs = [(model, torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)) for model in (pair.library, pair.ours)]
    for step in range(steps):
        for (model, optimizer), loss in zip(pairs, pair.total_losses(step), strict=True):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1)
            optimizer.step()
    after, expected = pair.ours.state_dict(), pair.rename(pair.library.state_dict())
    tensors = {key: value for key, value in expected.items() if value.is_floating_point()}
    largest = max(float((after[key] - value).abs().max()) for key, value in tensors.items())
    parameters = dict(pair.ours.named_parameters())
    changes = {
        part: max(
            float((value.detach() - before[key]).abs().max())
            for key, value in parameters.items()
            if key.startswith(part)
        )
        for part in ("backbone", "heads")
    }
    return largest, changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks, rows, wrong = read_tasks(), [], []
    library = {*models.list_models(models.detection), *models.list_models(models.segmentation)}
    for name in options.names or [name for name in tasks if name in library]:
        pair = build_pair(name, tasks[name])
        results = compare_images(pair)
        results["weights"], changes = compare_training(pair, options.steps)
        rows.append(
            [f"`{name}`", *(f"{results[key]:.0e}".replace("0e+00", "0") if key in results else "" for key in COLUMNS)]
        )
        print(*rows[-1], f"changes {changes}", sep="  ", flush=True)
        wrong += [f"{name}: {key} {results[key]:.1e}" for key in LIMITS if results.get(key, 0) > LIMITS[key]]
    columns = ["`pretrained=`", "outputs", "boxes (px)", "masks", "losses", f"weights, {options.steps} steps"]
    if not options.names:
        write_block("equality", markdown(columns, rows), PAGE)
    if wrong:
        raise SystemExit("\n".join(["larger than allowed:", *wrong]))


if __name__ == "__main__":
    main()
