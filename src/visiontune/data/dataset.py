"""Samples as tensors, one at a time."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from visiontune.data.augmentation import ShortSide
from visiontune.data.images import load_image, with_channels
from visiontune.data.schema import Sample
from visiontune.data.seeding import derive


class VisionDataset(Dataset[dict[str, Any]]):
    """Loads, transforms and names samples.

    What the transform draws depends on (seed, epoch, index) alone: not on the worker, the order, or what was drawn
    before. The process's own random state is left as it was.

    Args:
        transform: takes `(image, targets)`, the image `(C, H, W)` uint8; geometry in the targets moves along.
        tasks: what every item has a target for; None where the sample has none.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        root: Path | None,
        transform: v2.Transform,
        *,
        tasks: Sequence[str] = (),
        channels: int = 3,
        seed: int = 0,
    ) -> None:
        self.samples, self.root, self.transform = samples, root or Path(), transform
        self.tasks, self.channels, self.seed = tuple(tasks), channels, seed
        self._kept: list[tuple[Tensor, dict[str, Any], tuple[int, int]]] | None = None

    def keep_in_memory(self, size: tuple[int, int]) -> None:
        """Decode everything once, shrunk to cover 1.5 times `size` (H, W), so that crops stay sharp.

        Costs about 3 x (1.5 x size)^2 bytes a picture, 340 KB at 224 pixels. Call it before workers start: they then
        share it.
        """
        shrink = ShortSide((round(size[0] * 1.5), round(size[1] * 1.5)))

        def load(index: int) -> tuple[Tensor, dict[str, Any], tuple[int, int]]:
            image, targets, (height, width) = self._load(index)
            if height > shrink.size[0] and width > shrink.size[1]:
                image, targets = shrink(tv_tensors.Image(image), targets)
            return image.contiguous(), targets, (height, width)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            self._kept = list(pool.map(load, range(len(self.samples))))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample `index` as seen in `epoch`, for a key `(epoch, index)`; a plain index means epoch 0.

        Returns:
            `image` (C, H, W) uint8, `targets` task -> target or None, `index`, `path`, and `size`, the (H, W) of the
            picture before any transform.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        image, targets, size = self._kept[index] if self._kept is not None else self._load(index)
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        try:
            # One picture is too little work to share: threads that wait for each other cost up to 100 times as much.
            torch.set_num_threads(1)
            torch.default_generator.manual_seed(derive(self.seed, "augment", epoch, index))
            image, targets = self.transform(tv_tensors.Image(image), targets)
        finally:
            torch.set_rng_state(before)
            torch.set_num_threads(threads)
        return {
            "image": image.as_subclass(Tensor),
            "targets": targets,
            "index": index,
            "path": self.samples[index].path,
            "size": size,
        }

    def _load(self, index: int) -> tuple[Tensor, dict[str, Any], tuple[int, int]]:
        """Picture, targets and original (H, W) of a sample, before any transform."""
        sample = self.samples[index]
        if sample.image is None:
            image = load_image(self.root / sample.path, self.channels)
        else:
            image = with_channels(sample.image, self.channels)
        height, width = image.shape[-2:]
        return image, {task: sample.targets.get(task) for task in self.tasks}, (height, width)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: `image` (B, C, H, W) uint8, `targets` task -> list, `index` (B,), `path` list, `size` (B, 2)."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "targets": {task: [item["targets"][task] for item in items] for task in items[0]["targets"]},
        "index": torch.tensor([item["index"] for item in items]),
        "path": [item["path"] for item in items],
        "size": torch.tensor([item["size"] for item in items]),
    }
