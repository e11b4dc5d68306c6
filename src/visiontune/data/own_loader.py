"""Wrap the loaders of a user's LightningDataModule: check and complete batches, and make them reproducible."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from visiontune.data.batch import Batch
from visiontune.data.frames import Frame
from visiontune.data.schema import TaskInfo
from visiontune.data.seeding import derive
from visiontune.errors import UserError


class OwnLoader:
    """Iterates over a user's loader.

    All random numbers that the loader draws from torch, numpy and Python depend only on (seed, split, epoch), and do
    not affect those of training: a resumed run gets the same batches as an uninterrupted one.

    Args:
        shape: (C, H, W) of the network's input.
    """

    def __init__(
        self, loader: Any, split: str, schema: Mapping[str, TaskInfo], shape: tuple[int, int, int], seed: int
    ) -> None:
        self.loader, self.split, self.schema, self.shape, self.seed = loader, split, schema, shape, seed
        self.epoch = self._skip = 0
        self.name = f"data.datamodule.{split}_dataloader"
        try:
            self._length = len(loader)
        except TypeError:
            raise UserError(
                f"{self.name}: expected a loader with a length, such as a DataLoader of a map-style Dataset"
            ) from None
        self.batch_size: int = getattr(loader, "batch_size", None) or 1

    @property
    def sampler(self) -> "OwnLoader":
        """Itself, since the Trainer calls `set_epoch` of a loader's samplers."""
        return self

    batch_sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch if self.split == "train" else 0
        set_epoch = getattr(getattr(self.loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self.epoch)

    def resume_at(self, epoch: int, done: int) -> None:
        """Skip the first `done` batches of `epoch` in the next pass."""
        self.set_epoch(epoch)
        self._skip = done

    def first(self, batches: int) -> list[Batch]:
        """The first batches of a pass."""
        return list(islice(self, batches))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        skip, self._skip = self._skip, 0
        draws = _RandomState(derive(self.seed, "own loader", self.split, self.epoch))
        generator = getattr(self.loader, "generator", None)
        if generator is not None:
            generator.manual_seed(derive(self.seed, "own generator", self.split, self.epoch))
        with draws.active():
            batches = iter(self.loader)
        number = start = 0
        while True:
            with draws.active():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            batch = self._complete(batch, start, f"{self.name}, batch {number}")
            start += len(batch["path"])
            number += 1
            if number > skip:
                yield batch

    def _complete(self, batch: Any, start: int, where: str) -> Batch:
        """Check a batch and add the missing entries of `Batch`; tasks without a head are left out."""
        if not isinstance(batch, Mapping) or not {"image", "targets"} <= set(batch):
            actual = f"the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
            raise UserError(f"{where}: expected a dict with image and targets (visiontune.data.Batch), got {actual}")
        image = _check_image(batch["image"], self.shape, where)
        count = len(image)
        targets = batch["targets"]
        for task in self.schema:
            values = targets.get(task) if isinstance(targets, Mapping) else None
            if not isinstance(values, list | tuple) or len(values) != count:
                raise UserError(
                    f"{where}: expected targets {{{task!r}: a list of {count} targets, None without a label}}, "
                    f"got {type(values).__name__}" + (f" of {len(values)}" if isinstance(values, list | tuple) else "")
                )
        complete: dict[str, Any] = {
            "index": torch.arange(start, start + count),
            "path": [f"{self.split}/{i:06d}" for i in range(start, start + count)],
            "size": torch.tensor([image.shape[-2:]] * count),
            **batch,
            "targets": {task: list(targets[task]) for task in self.schema},
        }
        if self.split != "train":
            complete.setdefault("frame", [Frame.whole(*self.shape[1:])] * count)
            complete.setdefault("truth", complete["targets"])
        return cast(Batch, complete)


def _check_image(image: Any, shape: tuple[int, int, int], where: str) -> Tensor:
    if not isinstance(image, Tensor) or image.ndim != 4 or tuple(image.shape[1:]) != shape:
        actual = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise UserError(
            f"{where}: expected images (B, {', '.join(map(str, shape))}), as data.channels and data.image_size say, "
            f"got {actual}; write e.g. data.image_size=160"
        )
    if image.dtype != torch.uint8 and not (image.is_floating_point() and image.min() >= 0 and image.max() <= 1):
        values = f"{image.dtype} from {image.min():g} to {image.max():g}"
        raise UserError(
            f"{where}: expected uint8 images, or float from 0 to 1 (mean and standard deviation are applied in the "
            f"backbone), got {values}"
        )
    return image


class _RandomState:
    """Separate random states of torch, numpy and Python, which replace the global ones while active."""

    def __init__(self, seed: int) -> None:
        with self._restored():
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            self._states = _read_states()

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._restored():
            _write_states(self._states)
            yield
            self._states = _read_states()

    @staticmethod
    @contextmanager
    def _restored() -> Iterator[None]:
        states = _read_states()
        try:
            yield
        finally:
            _write_states(states)


def _read_states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _write_states(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
