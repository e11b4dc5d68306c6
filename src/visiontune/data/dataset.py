"""A map-style Dataset that loads and transforms samples."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from visiontune.cores import usable_cores
from visiontune.data.batch import Batch
from visiontune.data.frames import Frame
from visiontune.data.geometry import ShortSide
from visiontune.data.images import DECODER, ImageDecoder, with_channels
from visiontune.data.schema import Sample
from visiontune.data.seeding import derive
from visiontune.data.target_transforms import Measure
from visiontune.data.targets import is_stored


class VisionDataset(Dataset[dict[str, Any]]):
    """Loads samples and transforms them.

    Random transforms depend only on (seed, epoch, index): not on the worker, the order, or earlier draws. The random
    state of the process is restored afterwards.

    Args:
        transform: takes `(image, targets)`, the image `(C, H, W)` uint8, and moves targets with geometry as well.
        frame: (H, W) of an image -> where the transform puts it. If set, every item also has its `frame` and its
            `truth`: the targets in pixels of the original image, which metrics compare predictions with.
        tasks: names of the targets of every item; the target is None where the sample has none.
        decoder: reads image files.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        root: Path | None,
        transform: Callable[..., Any],
        *,
        frame: Callable[[tuple[int, int]], Frame] | None = None,
        tasks: Sequence[str] = (),
        decoder: ImageDecoder = DECODER,
        seed: int = 0,
    ) -> None:
        self.samples, self.root, self.transform = samples, root or Path(), transform
        self.frame, self.tasks, self.decoder, self.seed = frame, tuple(tasks), decoder, seed
        self._cached: list[_Loaded] | None = None
        self._items: list[dict[str, Any]] | None = None
        self.original_images = False  # whether items hold their `original_image`

    def keep_in_memory(self, size: tuple[int, int]) -> None:
        """Decode all images once and keep them.

        For evaluation the transformed items are kept, for training images resized to cover 1.5 times `size`, so that
        crops stay sharp. With `size` (H, W) that is about 12 x H x W bytes per evaluation image and 7 x H x W per
        training image (600 and 340 KB at 224 pixels). Targets need more memory: a mask takes a byte per pixel and
        object, in evaluation at the original size, so large instance datasets may not fit. Call it before workers
        start: they then share the memory.
        """
        shrink = ShortSide((round(size[0] * 1.5), round(size[1] * 1.5)))

        def load(index: int) -> _Loaded:
            image, targets, truth, (height, width) = self._load(index)
            if height <= shrink.size[0] or width <= shrink.size[1]:
                return image, targets, truth, (height, width)
            image, targets = shrink(*Measure()(tv_tensors.Image(image), targets))
            return image.contiguous(), targets, {}, (height, width)

        with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
            if self.frame:
                self._items = list(pool.map(lambda index: self._item(index, self._load(index)), range(len(self))))
            else:
                self._cached = list(pool.map(load, range(len(self))))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample `index` in `epoch`, for a key `(epoch, index)`; a plain index means epoch 0.

        Returns:
            `image` (C, H, W), uint8 or float32 0..1 depending on the transform, `targets` task -> target or None,
            `index`, `path`, and `size`, the (H, W) of the image before any transform; in evaluation also `frame` and
            `truth`.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        item = self._at(epoch, index)
        return item | {"original_image": self.original_image(index)} if self.original_images else item

    def _at(self, epoch: int, index: int) -> dict[str, Any]:
        if self._items is not None:
            return dict(self._items[index])
        loaded = self._cached[index] if self._cached is not None else self._load(index)
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        try:
            # One image is too little work for several threads: synchronizing them takes up to 100 times as long.
            torch.set_num_threads(1)
            torch.default_generator.manual_seed(derive(self.seed, "augment", epoch, index))
            return self._item(index, loaded)
        finally:
            torch.set_rng_state(before)
            torch.set_num_threads(threads)

    def _item(self, index: int, loaded: "_Loaded") -> dict[str, Any]:
        image, targets, truth, size = loaded
        image, targets = self.transform(tv_tensors.Image(image), targets)
        item = {
            "image": image.as_subclass(Tensor),
            "targets": targets,
            "index": index,
            "path": self.samples[index].path,
            "size": size,
        }
        return item | {"frame": self.frame(size), "truth": truth} if self.frame else item

    def original_image(self, index: int) -> Tensor:
        """The image before any transform, ``(C, H, W)`` uint8."""
        image = self.samples[index].image
        if image is None:
            return self.decoder(self.root / self.samples[index].path)
        return with_channels(image if isinstance(image, Tensor) else image(), self.decoder.channels)

    def _load(self, index: int) -> "_Loaded":
        image = self.original_image(index)
        height, width = image.shape[-2:]
        targets = {}
        for task in self.tasks:
            target = self.samples[index].targets.get(task)
            targets[task] = target.load((height, width)) if is_stored(target) else target
        return image, targets, targets, (height, width)


# Image, targets to transform, targets of the original image, and original (H, W) of a sample.
_Loaded = tuple[Tensor, dict[str, Any], dict[str, Any], tuple[int, int]]


def collate(items: list[dict[str, Any]]) -> Batch:
    """Combine items into a `Batch`; without `image` if the items have none."""
    batch: Any = {
        "targets": {task: [item["targets"][task] for item in items] for task in items[0]["targets"]},
        "index": torch.tensor([item["index"] for item in items]),
        "path": [item["path"] for item in items],
        "size": torch.tensor([item["size"] for item in items]),
    }
    if "image" in items[0]:
        batch["image"] = torch.stack([item["image"] for item in items])
    if "frame" in items[0]:
        batch["frame"] = [item["frame"] for item in items]
        batch["truth"] = {task: [item["truth"][task] for item in items] for task in items[0]["truth"]}
    if "original_image" in items[0]:
        batch["original_image"] = [item["original_image"] for item in items]
    return batch
