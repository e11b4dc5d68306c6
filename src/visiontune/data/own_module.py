"""A user's LightningDataModule instead of `VisionData`: `data=python data.datamodule._target_=mine.Module`.

It has `schema` (task -> TaskInfo) and yields batches as in `visiontune.data.batch`, of which only `image` and `targets`
are required. All batches are read once before training, to check them and to count their labels.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from visiontune.data.datamodule import VisionData
from visiontune.data.images import ImageDecoder
from visiontune.data.loaders import as_size
from visiontune.data.own_loader import OwnLoader
from visiontune.data.readers.python import StoredTarget
from visiontune.data.sampling import BEGINNING
from visiontune.data.schema import SPLITS, Sample, Source, TaskInfo, select_tasks
from visiontune.errors import UserError
from visiontune.nodes import build

KEY = "data.datamodule"
NOTE = (
    f"{KEY} makes splits, batches and augmentation itself: augment, data.split_ratio and the other keys of sampling do "
    "not apply, splits.csv has no hashes of images, and frozen features are not cached"
)


class OwnModuleData(VisionData):
    """Adapts a user's module to the interface of `VisionData`.

    Training runs on one device, since a user's loader does not shard its samples among ranks.

    Raises:
        UserError: the module has no schema, or its batches are invalid.
    """

    def __init__(
        self, module: Any, *, image_size: int | Sequence[int], channels: int, seed: int, tasks: Sequence[str] | None
    ) -> None:
        self.schema = _schema(module, tasks)
        self.seed, self.channels = seed, channels
        if missing := [name for name in ("train_dataloader", "val_dataloader") if not is_overridden(name, module)]:
            raise UserError(f"{KEY}: {type(module).__name__} needs a method {missing[0]}(self)")
        module.prepare_data()
        module.setup("fit")
        if is_overridden("test_dataloader", module):
            module.setup("test")
        shape = (channels, *as_size(image_size))
        self._loaders = {
            split: OwnLoader(getattr(module, f"{split}_dataloader")(), split, self.schema, shape, seed)
            for split in SPLITS
            if split != "test" or is_overridden("test_dataloader", module)
        }
        samples = [sample for split in self._loaders for sample in self._read(split)]
        super().__init__(
            Source(self.schema, samples, [NOTE]),
            image_size=image_size,
            decoder=ImageDecoder(channels),
            seed=seed,
            num_workers=0,
        )
        self.module, self.has_views = module, False
        self.batch_size = self._loaders["train"].batch_size
        self.num_workers = getattr(self._loaders["train"].loader, "num_workers", 0)

    def _read(self, split: str) -> list[Sample]:
        """The samples of a split without their images; `image` reads the batches again, up to that of the sample."""
        samples = []
        for number, batch in enumerate(self._loaders[split]):
            for place, path in enumerate(batch["path"]):
                targets = {task: _stored(batch["targets"][task][place], info) for task, info in self.schema.items()}
                image = partial(self._original_image, split, number, place)
                samples.append(Sample(path, targets, split, image=image, content=f"{split}/{path}"))
        return samples

    def _original_image(self, split: str, number: int, place: int) -> Tensor:
        batch = next(batch for i, batch in enumerate(self._loaders[split]) if i == number)
        if "original_image" in batch:
            return batch["original_image"][place]
        image = batch["image"][place]
        return (image * 255).round().byte() if image.is_floating_point() else image

    def steps_per_epoch(self, world: int = 1) -> int:
        if world > 1:
            raise UserError(f"{KEY} trains on one device, not on {world}: write trainer.devices=1")
        return len(self._loaders["train"])

    def train_dataloader(self) -> Any:
        loader = self._loaders["train"]
        loader.resume_at(**self._next)
        self._next = BEGINNING
        return loader

    def val_dataloader(self) -> Any:
        return self._loaders["val"]

    def test_dataloader(self) -> Any:
        return self._loaders.get("test", [])

    def eval_loader(
        self, split: str, sharded: bool = False, at_most: int | None = None, original_images: bool = False
    ) -> Any:
        """The batches of a split as the module yields them (train is augmented).

        Args:
            sharded: has no effect, since training runs on one device.
            at_most: about how many samples, in whole batches from the first one.
            original_images: whether batches must have `original_image`.

        Raises:
            UserError: there is no such split, or its batches have no `original_image`.
        """
        if not self.samples(split):
            raise UserError(f"the data has no {split} split: {KEY} has no {split}_dataloader")
        loader = self._loaders[split]
        loader.set_epoch(0)
        if original_images and "original_image" not in loader.first(1)[0]:
            raise UserError(
                f"{KEY}: an exported file reads original images: give batches original_image, a list of uint8 (C, H, W)"
            )
        batches = None if at_most is None else max(1, at_most // self.batch_size)
        return loader if batches is None else loader.first(batches)

    def assign_as(self, path: Path, grown: bool = True) -> None:
        """Does nothing: the module decides the splits in every run."""


def build_own_module(
    node: Mapping[str, Any],
    *,
    image_size: int | Sequence[int],
    channels: int,
    seed: int,
    tasks: Sequence[str] | None,
) -> OwnModuleData:
    """Build the module of `data.datamodule`.

    Args:
        node: `_target_` and the arguments of the class.
        tasks: names of the tasks to use; None means all.

    Raises:
        UserError: the class cannot be imported or built, or its schema or batches are invalid.
    """
    module = build(node, KEY, "a subclass of lightning.LightningDataModule", L.LightningDataModule, only_classes=True)
    return OwnModuleData(module, image_size=image_size, channels=channels, seed=seed, tasks=tasks)


def _schema(module: Any, tasks: Sequence[str] | None) -> dict[str, TaskInfo]:
    schema = getattr(module, "schema", None)
    if not isinstance(schema, Mapping) or not schema or not all(isinstance(i, TaskInfo) for i in schema.values()):
        raise UserError(
            f"{KEY}: {type(module).__name__} needs `schema`, such as "
            "schema = {'classification': TaskInfo('classification', ['cat', 'dog'])} (from visiontune.data)"
        )
    return select_tasks(schema, tasks or list(schema))


def _stored(target: Any, info: TaskInfo) -> Any:
    """A target with geometry is reduced to its labels, which are sufficient for counts and splits."""
    if target is None or not info.target_kind.has_geometry:
        return target
    return StoredTarget(info.labels(target), "", _not_stored)


def _not_stored(size: tuple[int, int]) -> Any:
    raise UserError(f"{KEY}: targets are not stored; read them from its batches")
