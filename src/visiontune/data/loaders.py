"""Loaders and batches, with or without a data module around them."""

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from visiontune.data.batch import Batch
from visiontune.data.dataset import VisionDataset, collate
from visiontune.data.geometry import eval_frame, eval_transform
from visiontune.data.sampling import EpochBatches
from visiontune.data.schema import Sample
from visiontune.errors import UserError

OPEN_FILES = 65_536


def to_network(batch: Batch) -> Batch:
    """`image` from uint8 0..255 to float32 0..1, channels last in memory (a quarter faster and more on CPU).

    Targets that are images (of restoration) become float32 0..1 as well.
    """
    image = batch["image"]
    if "frozen" not in batch:  # no network is run on the image there
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
) -> DataLoader[Batch]:
    """Batches of loose images in their order, prepared as in evaluation.

    Args:
        images: gives names and images ``(C, H, W)`` uint8, anew at each call.

    Returns:
        `path` holds the names, `original_image` the images as they came; `targets` is empty.
    """
    dataset: Any = _NamedImages(images, as_size(image_size), resize, fill)
    return DataLoader(dataset, batch_size, collate_fn=collate)


class _NamedImages(IterableDataset[dict[str, Any]]):
    def __init__(
        self,
        images: Callable[[], Iterator[tuple[str, Tensor]]],
        size: tuple[int, int],
        resize: str,
        fill: float,
    ) -> None:
        self.images = images
        self.transform, self.frame = eval_transform(size, resize, fill=fill), partial(eval_frame, resize, size=size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, (name, image) in enumerate(self.images()):
            sample = Sample(name, targets={}, image=image)
            dataset = VisionDataset([sample], None, self.transform, frame=self.frame, channels=len(image))
            yield dataset[0] | {"index": index, "original_image": image}


def as_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of one number or two."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f"data.image_size={image_size}: write one number of pixels, or [HEIGHT, WIDTH]")
    return size[0], size[1]


def data_loader(
    dataset: VisionDataset,
    batches: EpochBatches | list[list[tuple[int, int]]],
    num_workers: int,
    pin_memory: bool = False,
    collate: Callable[[list[dict[str, Any]]], Any] = collate,
) -> DataLoader[Any]:
    if num_workers > 0:
        _allow_many_files()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # Without one of its own, every pass would draw from the process's random state.
        generator=torch.Generator(),
    )


def _allow_many_files() -> None:
    """Each tensor that comes from a data-loader worker is an open file here: of a batch of objects with masks hundreds.

    The usual limit of 1,024 would be a crash, or a batch that never comes; every process may raise its own.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def workers(asked: int | str, in_memory: bool) -> int:
    """How many data-loader workers `data.num_workers` means on this machine."""
    if asked == "auto":
        return 0 if in_memory else min((os.cpu_count() or 1) - 1, 8)
    if not isinstance(asked, int) or asked < 0:
        raise UserError(f"data.num_workers={asked}: write auto, or how many processes (0 is none)")
    return asked
