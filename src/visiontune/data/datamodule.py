"""The LightningDataModule of a `Source`: verify images, assign splits, build loaders."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from visiontune.data.assign import assign, keep_labels
from visiontune.data.augmentation import Augment, train_transform
from visiontune.data.bad_files import BadFiles
from visiontune.data.batch import Batch
from visiontune.data.dataset import VisionDataset
from visiontune.data.geometry import eval_frame, eval_transform
from visiontune.data.image_notes import ImageNotes
from visiontune.data.images import DECODER, ImageDecoder
from visiontune.data.loaders import as_size, data_loader, resolve_workers, to_network
from visiontune.data.mixing import BatchMixer
from visiontune.data.recorded import read_splits, split_rows
from visiontune.data.sampling import BEGINNING, EpochBatches, balanced_weights, progress
from visiontune.data.schema import Sample, Source
from visiontune.data.split_checks import check_classes
from visiontune.data.splits import strata
from visiontune.data.verify import verify as verify_samples
from visiontune.errors import UserError, printable

# (loader, split) -> a loader that replaces it.
LoaderWrapper = Callable[[DataLoader[Batch], str], Any]


class VisionData(L.LightningDataModule):
    """All data of a run. The constructor checks the data and assigns all splits.

    The Trainer needs `use_distributed_sampler=False`: the batch sampler already shards samples among ranks.

    Args:
        image_size: size of the network's input in pixels: one number, or (H, W).
        batch_size: samples per rank and step.
        num_workers: data-loader workers; `auto` is 0 for images in memory, else the usable cores minus 1, at most 8.
        decoder: reads image files.
        resize: `squash`, `crop` or `letterbox`.
        cache: `none`, or `memory` to keep decoded images (resized to cover 1.5 times the image size).
        labelled: share of the training samples that keep each task's label, 0..1.
        balanced: draw every class equally often in training.
        on_bad_image: `error`, or `skip` to leave out images that cannot be read, with a note.
        assign_splits: decides the split of each sample, as `assign` does.

    Raises:
        UserError: the data or the arguments are invalid.
    """

    def __init__(
        self,
        source: Source,
        *,
        image_size: int | Sequence[int],
        batch_size: int = 32,
        num_workers: int | str = "auto",
        augment: Augment | None = None,
        split_ratio: Mapping[str, float] | None = None,
        fold: int | None = None,
        folds: int | None = None,
        per_class: int | None = None,
        limit_train: int | None = None,
        stratify: bool = True,
        labelled: float = 1.0,
        balanced: bool = False,
        verify: str = "auto",
        on_bad_image: str = "error",
        decoder: ImageDecoder = DECODER,
        resize: str = "squash",
        cache: str = "none",
        seed: int = 0,
        assign_splits: Callable[..., tuple[dict[str, list[Sample]], list[str]]] = assign,
    ) -> None:
        super().__init__()
        self.image_size = as_size(image_size)
        self.batch_size, self.resize, self.seed, self.decoder = batch_size, resize, seed, decoder
        channels = self.channels = decoder.channels
        self.schema, self.root = source.schema, source.root
        self.augment = augment or Augment()
        self.labelled, self.balanced, self.cache = labelled, balanced, cache
        kinds = [info.target_kind for info in self.schema.values()]
        self.eval_transform = eval_transform(self.image_size, resize, kinds, self.augment.fill)
        self.train_transform = train_transform(self.augment, self.image_size, resize, channels, kinds)
        mixing = self.augment.mixup > 0 or self.augment.cutmix > 0
        self._mixer = BatchMixer(self.schema, self.augment.mixup, self.augment.cutmix, seed) if mixing else None
        bad, images = BadFiles(on_bad_image), ImageNotes(self.decoder)
        samples = self._samples = verify_samples(source.root, source.samples, verify, bad, images=images)
        self._splits, notes = assign_splits(
            samples,
            self.schema,
            ratio=split_ratio or {"train": 0.7, "val": 0.15, "test": 0.15},
            seed=seed,
            fold=fold,
            folds=folds,
            per_class=per_class,
            limit_train=limit_train,
            stratify=stratify,
        )
        self._splits["train"] = keep_labels(self._splits["train"], labelled, seed)
        if labelled != 1:
            advice = f"Write a larger share, such as data.labelled={min(1, 10 * labelled):g}."
            notes += [note for note in check_classes(self._splits, self.schema, advice) if note not in notes]
        self.notes = [*dict.fromkeys(map(printable, [*source.notes, *bad.notes(), *images.notes(), *notes]))]
        self.num_workers = resolve_workers(num_workers, in_memory=all(isinstance(s.image, Tensor) for s in samples))
        self._datasets: dict[tuple[str, bool], VisionDataset] = {}
        self._next = BEGINNING
        self.view: Callable[[int], int] = int  # epoch -> the number that seeds augmentation
        self.wrap_loader: LoaderWrapper | None = None  # applied to the loaders of training and validation
        self.has_views = True  # augmentation is reproducible, so its outputs can be cached

    def samples(self, split: str) -> list[Sample]:
        """The samples of `train`, `val` or `test`, sorted by path; empty if the split does not exist."""
        if split not in self._splits:
            raise UserError(f"split={split}: choose one of {', '.join(self._splits)}")
        return self._splits[split]

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """split -> task -> class name -> number of its labels (images or boxes)."""
        result: dict[str, dict[str, dict[str, int]]] = {}
        for split, samples in self._splits.items():
            result[split] = {}
            for task, info in self.schema.items():
                numbers = Counter(label for s in samples for label in info.labels(s.targets.get(task)))
                result[split][task] = {name: numbers[label] for label, name in enumerate(info.classes)}
        return result

    def splits_rows(self) -> list[dict[str, str]]:
        """The rows of `splits.csv`, see `split_rows`."""
        return split_rows(self._splits, self._samples, self.schema)

    def steps_per_epoch(self, world: int = 1) -> int:
        """Training batches of one rank out of `world`, before gradients are accumulated."""
        return len(EpochBatches(len(self.samples("train")), self.batch_size, shuffle=True, world=world))

    def train_dataloader(self) -> Any:
        dataset = self.dataset("train", augmented=True)
        weights = None
        if self.balanced:
            classes = strata(self.samples("train"), self.schema)
            weights = balanced_weights([classes.get(sample.path) for sample in dataset.samples])
        return self._wrap(self._loader(dataset, shuffle=True, weights=weights), "train")

    def val_dataloader(self) -> Any:
        return self._wrap(self.eval_loader("val", sharded=True), "val")

    def _wrap(self, loader: DataLoader[Batch], split: str) -> Any:
        return loader if self.wrap_loader is None else self.wrap_loader(loader, split)

    def test_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self.eval_loader("test", sharded=True) if self.samples("test") else []

    def eval_loader(
        self, split: str, sharded: bool = False, at_most: int | None = None, original_images: bool = False
    ) -> DataLoader[Batch]:
        """Any split in order, every sample once, without augmentation.

        Args:
            sharded: each rank of a distributed run gets its share instead of all samples.
            at_most: largest number of samples, evenly spaced in the split.
            original_images: whether batches have the `original_image` of every sample.

        Raises:
            UserError: the data has no such split.
        """
        if not self.samples(split):
            raise UserError(f"the data has no {split} split: the data set has none, and data.split_ratio created none")
        dataset = self.dataset(split, augmented=False)
        dataset.original_images = original_images
        return self._loader(dataset, sharded=sharded, at_most=at_most)

    def assign_as(self, path: Path, grown: bool = True) -> None:
        """Use the splits of a run's `splits.csv`, so that a data set with new images is evaluated as before.

        Args:
            grown: whether new samples and changed labels are allowed; not when training is resumed.

        Raises:
            UserError: the samples differ from those in the file.
        """
        self._splits = read_splits(path, self._samples, self.schema, self._splits, grown)
        self._splits["train"] = keep_labels(self._splits["train"], self.labelled, self.seed)
        self._datasets.clear()

    def dataset(self, split: str, *, augmented: bool) -> VisionDataset:
        """The split as a dataset; cached, so that images are decoded once with `cache=memory`."""
        key = (split, augmented)
        if key not in self._datasets:
            transform = self.train_transform if augmented else self.eval_transform
            dataset = VisionDataset(
                self.samples(split),
                self.root,
                transform,
                frame=None if augmented else partial(eval_frame, self.resize, size=self.image_size),
                tasks=list(self.schema),
                decoder=self.decoder,
                seed=self.seed,
            )
            if self.cache == "memory":
                dataset.keep_in_memory(self.image_size)
            self._datasets[key] = dataset
        return self._datasets[key]

    def state_dict(self) -> dict[str, int]:
        assert self.trainer is not None
        return progress(self.trainer)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._next = state_dict

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        trainer = self.trainer
        training = trainer is not None and trainer.training
        return self.to_network(batch, training=training, epoch=trainer.current_epoch if trainer is not None else 0)

    def to_network(self, batch: Batch, *, training: bool = False, epoch: int = 0) -> Batch:
        """Convert `image` to float 0..1 in channels-last format; in training, also apply mixup or cutmix."""
        batch = to_network(batch)
        return self._mixer(batch, epoch) if training and self._mixer is not None else batch

    def _loader(
        self,
        dataset: VisionDataset,
        shuffle: bool = False,
        weights: list[float] | None = None,
        sharded: bool = True,
        at_most: int | None = None,
    ) -> DataLoader[Batch]:
        trainer = self.trainer
        batches = EpochBatches(
            len(dataset),
            self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            weights=weights,
            at_most=at_most,
            rank=trainer.global_rank if trainer is not None and sharded else 0,
            world=trainer.world_size if trainer is not None and sharded else 1,
            view=self.view if shuffle else None,
        )
        if shuffle:
            batches.resume_at(**self._next)
            self._next = BEGINNING
        on_cuda = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return data_loader(dataset, batches, self.num_workers, pin_memory=on_cuda)
