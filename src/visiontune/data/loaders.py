"""Build data loaders, with or without a data module."""

import resource
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from visiontune.cores import usable_cores
from visiontune.data.batch import Batch
from visiontune.data.dataset import VisionDataset, collate
from visiontune.data.geometry import eval_frame, eval_transform
from visiontune.data.images import ImageDecoder
from visiontune.data.sampling import EpochBatches
from visiontune.data.schema import Sample
from visiontune.data.shared_memory import check_shared_memory, end_worker_without_memory
from visiontune.signals import obey_parent

OPEN_FILES = 65_536
LARGE_IMAGE = 24_000_000  # bytes, 8 megapixels in color
BATCH_BYTES = 128_000_000  # of original images in a batch of `image_loader`


def to_network(batch: Batch) -> Batch:
    """`image` from uint8 0..255 to float32 0..1, in channels-last format (at least 25% faster on CPU).

    Targets that are images (dense tasks) become float32 0..1 as well.
    """
    image = batch["image"]
    if "frozen" not in batch:  # the network does not read the image
        image = F.to_dtype(image, torch.float32, scale=True).contiguous(memory_format=torch.channels_last)
    values: dict[str, Any] = {**batch, "image": image}
    values |= {key: _as_floats(values[key]) for key in ("targets", "truth") if key in values}
    return cast(Batch, values)


def _as_floats(targets: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {task: [_as_float(target) for target in values] for task, values in targets.items()}


def _as_float(target: Any) -> Any:
    if isinstance(target, tv_tensors.Image):
        return F.to_dtype(target, torch.float32, scale=True).as_subclass(Tensor)
    return target


def image_loader(
    images: Callable[[], Iterator[tuple[str, Tensor]]],
    *,
    image_size: int | Sequence[int],
    resize: str = "squash",
    fill: float = 0,
    batch_size: int = 32,
    original_images: bool = True,
) -> DataLoader[Batch]:
    """A loader of images that are not part of a data set, transformed as in evaluation.

    Args:
        images: returns an iterator of names and images ``(C, H, W)`` uint8; called for each pass.
        batch_size: images per batch; fewer if they have more than `BATCH_BYTES` together.
        original_images: whether batches have the images as `original_image`.

    Returns:
        Batches with the names as `path`, and empty `targets`.
    """
    dataset: Any = _NamedImages(images, as_size(image_size), resize, fill, batch_size, original_images)
    return DataLoader(dataset, batch_size=None, collate_fn=lambda batch: batch)


class _NamedImages(IterableDataset[Batch]):
    def __init__(
        self,
        images: Callable[[], Iterator[tuple[str, Tensor]]],
        size: tuple[int, int],
        resize: str,
        fill: float,
        batch_size: int,
        original_images: bool,
    ) -> None:
        self.images, self.batch_size, self.original_images = images, batch_size, original_images
        self.transform, self.frame = eval_transform(size, resize, fill=fill), partial(eval_frame, resize, size=size)

    def __iter__(self) -> Iterator[Batch]:
        items: list[dict[str, Any]] = []
        used = 0
        for index, (name, image) in enumerate(self.images()):
            if items and (len(items) == self.batch_size or used + image.numel() > BATCH_BYTES):
                yield collate(items)
                items, used = [], 0
            items.append(self._item(index, name, image))
            used += image.numel()
        if items:
            yield collate(items)

    def _fit(self, image: Tensor, targets: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Transform a large image by channel: the transform resizes in float, in four times the memory."""
        if image.numel() < LARGE_IMAGE:
            return self.transform(image, targets)
        channels = [self.transform(tv_tensors.Image(channel[None]), {})[0] for channel in image.as_subclass(Tensor)]
        return torch.cat(channels), targets

    def _item(self, index: int, name: str, image: Tensor) -> dict[str, Any]:
        sample = Sample(name, targets={}, image=image)
        dataset = VisionDataset([sample], None, self._fit, frame=self.frame, decoder=ImageDecoder(len(image)))
        item = dataset[0] | {"index": index}
        return item | {"original_image": image} if self.original_images else item


def as_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) from one number or two."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width


def data_loader(
    dataset: VisionDataset,
    batches: EpochBatches | list[list[tuple[int, int]]],
    num_workers: int,
    pin_memory: bool = False,
    collate: Callable[[list[dict[str, Any]]], Any] = collate,
) -> DataLoader[Any]:
    """A loader of `batches`, which are lists of keys `(view, index)` of the dataset.

    Args:
        collate: combines the items of a batch, by default to a `Batch`.

    Raises:
        RunError: there is too little shared memory for so many workers.
    """
    if num_workers > 0:
        _allow_many_files()
        size = batches.batch_size if isinstance(batches, EpochBatches) else max(map(len, batches), default=0)
        check_shared_memory(dataset[0], size, num_workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        persistent_workers=num_workers > 0,
        # Without a generator, every pass would draw from the global random state.
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    """Prepare a data-loader worker; called in its process."""
    obey_parent()
    end_worker_without_memory()


def _allow_many_files() -> None:
    """Raise the limit of open files: each tensor from a data-loader worker is an open file in this process.

    A batch with masks has hundreds of tensors. At the usual limit of 1,024, loading would crash or hang.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def resolve_workers(num_workers: int | str, in_memory: bool) -> int:
    """The number of data-loader workers on this machine for `data.num_workers`, a number or "auto"."""
    if isinstance(num_workers, int):
        return num_workers
    return 0 if in_memory else min(usable_cores() - 1, 8)
