"""A cache of the outputs of frozen stages, which are computed once for each image and view, not in every epoch."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from visiontune.data import VisionData
from visiontune.data.batch import Batch
from visiontune.data.dataset import collate
from visiontune.data.loaders import data_loader
from visiontune.errors import UserError
from visiontune.frozen_features.plans import count_frozen_stages, evaluation_mode, plan_stages
from visiontune.frozen_features.sizes import count_bytes, without_image
from visiontune.frozen_features.store import Store
from visiontune.models.finetuner import FineTuner
from visiontune.models.replay import IMAGE, FrozenOutputs, record_outputs

SPLITS = ("train", "val")


class FrozenFeatureCache:
    """Wraps the loaders of a data module: epochs whose first stages are frozen get recorded outputs instead of images.

    While stages are frozen, their outputs do not change. One pass records the outputs for this epoch and for later
    epochs, which may freeze fewer stages. Outputs are recorded again if the weights of their stages have changed: the
    average of the weights, which is validated, still changes after a stage has frozen. Nothing outlives the process: a
    resumed run computes the outputs again in the same batches, and therefore to the same bits.

    Args:
        epochs: number of training epochs.
        place: `memory` or `disk`.
        bits: bits per stored number, 16 or 32.
        max_gb: largest size in GB.
        folder: a folder on the same disk as that of `open`; it need not exist yet.

    Raises:
        UserError: the outputs need more than `max_gb`, or more than the disk has.
    """

    def __init__(
        self, model: FineTuner, data: VisionData, epochs: int, place: str, bits: int, max_gb: float, folder: Path
    ) -> None:
        self.model, self.data, self.place, self.bits = model, data, place, bits
        self.frozen_counts = [count_frozen_stages(model.strategy, epoch) for epoch in range(epochs)]
        counts = sorted({*self.frozen_counts} - {0})
        self.plans = {count: plan for count in counts if (plan := plan_stages(model, data, count)) is not None}
        self.stores: dict[str, Store] = {}
        self.recorded: dict[tuple[str, int], list[str]] = {}  # split and view -> digests of the stages' weights
        self.bytes = sum(
            count_bytes(data, split, self._paths_by_view(split), self.plans.values(), bits) for split in SPLITS
        )
        free = shutil.disk_usage(_existing_parent(folder)).free
        advice = "fewer frozen_features.views, frozen_features.bits=16 or frozen_features.cache=none"
        if self.bytes > max_gb * 1e9:
            raise UserError(
                f"the outputs of the frozen stages and the targets need {self.bytes / 1e9:.3g} GB, more than "
                f"frozen_features.max_gb={max_gb:g}: write a larger one, {advice}"
            )
        if place == "disk" and self.bytes > free:
            raise UserError(
                f"the outputs of the frozen stages need {self.bytes / 1e9:.3g} GB, and the disk has {free / 1e9:.3g}: "
                f"write {advice}"
            )

    def __call__(self, loader: DataLoader[Batch], split: str) -> "CachedLoader":
        """The loader of a split, which yields recorded batches in the epochs that have them."""
        return CachedLoader(self, loader, split)

    @contextmanager
    def open(self, folder: Path) -> Iterator[None]:
        """Store outputs within the block; with `place="disk"` in unlinked files on the disk of `folder`."""
        on_disk = folder if self.place == "disk" else None
        self.stores = {split: Store(len(self.data.samples(split)), self.bits, on_disk) for split in SPLITS}
        try:
            yield
        finally:
            self.stores = {}

    @property
    def epochs(self) -> list[int]:
        """The epochs that train on recorded outputs."""
        return [epoch for epoch, count in enumerate(self.frozen_counts) if count in self.plans]

    def prepare(self, split: str, epoch: int) -> bool:
        """Record the missing outputs of this epoch; returns whether it runs on recorded outputs."""
        store = self.stores[split]
        store.keep_only({path for later in self.epochs if later >= epoch for path in self._paths(later)})
        if epoch not in self.epochs:
            return False
        key, digests = (split, self._view(split, epoch)), self._digest_stages(self.frozen_counts[epoch])
        if self.recorded.get(key, [])[: len(digests)] != digests:
            self._record(*key, epoch)
            self.recorded[key] = digests
        return True

    def batch(self, split: str, epoch: int, indices: list[int]) -> Batch:
        """A batch as the loader yields it, with `frozen` outputs; `image` is empty unless a head reads it."""
        view, plan, store = self._view(split, epoch), self.plans[self.frozen_counts[epoch]], self.stores[split]
        index = torch.tensor(indices)
        values = {path: store.get(view, path, index) for path in plan.paths}
        empty = torch.zeros(()).expand(len(indices), self.data.channels, *self.data.image_size)
        image = values.pop(IMAGE, empty)
        batch = collate([store.items[view][i] for i in indices])
        return {**batch, "image": image, "frozen": FrozenOutputs(values, plan.shapes)}

    def _digest_stages(self, count: int) -> list[str]:
        """A digest of the weights and buffers of each of the first `count` stages."""
        return [_digest(stage.state_dict().values()) for _, stage in self.model.backbone.stages()[:count]]

    def _view(self, split: str, epoch: int) -> int:
        return self.data.view(epoch) if split == "train" else 0

    def _paths(self, epoch: int) -> tuple[str, ...]:
        """The outputs that an epoch needs."""
        return self.plans[self.frozen_counts[epoch]].paths

    def _paths_of_view(self, split: str, view: int, first_epoch: int) -> set[str]:
        """The outputs that `first_epoch` and later epochs of a view need."""
        epochs = [epoch for epoch in self.epochs if epoch >= first_epoch and self._view(split, epoch) == view]
        return {path for epoch in epochs for path in self._paths(epoch)}

    def _paths_by_view(self, split: str) -> dict[int, set[str]]:
        views = {self._view(split, epoch) for epoch in self.epochs}
        return {view: self._paths_of_view(split, view, first_epoch=0) for view in views}

    @torch.inference_mode(False)
    @torch.no_grad()
    def _record(self, split: str, view: int, epoch: int) -> None:
        model, store = self.model, self.stores[split]
        paths = self._paths_of_view(split, view, epoch)
        store.items[view] = []
        with evaluation_mode(model):
            for items in self._load(split, view):
                batch = move_data_to_device(collate(items), model.device)
                image = self.data.to_network(batch)["image"]
                with model.trainer.precision_plugin.forward_context():
                    outputs = record_outputs(model.forward, model.backbone.model, sorted(paths - {IMAGE}), image)
                rows = torch.arange(len(store.items[view]), len(store.items[view]) + len(items))
                for path in paths:
                    store.put(view, path, rows, image if path == IMAGE else outputs[path])
                rest = [without_image(item) for item in items]
                # Each tensor of a data-loader worker is an open file in this process; a copy is not.
                store.items[view] += deepcopy(rest) if self.data.num_workers else rest

    def _load(self, split: str, view: int) -> Iterable[list[dict[str, Any]]]:
        """All samples of a view in their order, in lists of the batch size."""
        dataset, size = self.data.dataset(split, augmented=split == "train"), self.data.batch_size
        keys = [(view, index) for index in range(len(dataset))]
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        return data_loader(dataset, batches, self.data.num_workers, collate=list)


class CachedLoader:
    """A loader that loads no images in the epochs that run on recorded outputs."""

    def __init__(self, cache: FrozenFeatureCache, loader: DataLoader[Batch], split: str) -> None:
        self.cache, self.loader, self.split = cache, loader, split
        self.batch_sampler: Any = loader.batch_sampler  # the Trainer tells it the epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.cache.data.trainer
        assert trainer is not None
        epoch = self.batch_sampler.epoch if self.split == "train" else trainer.current_epoch
        if not self.cache.prepare(self.split, epoch):
            yield from self.loader
            return
        for keys in self.batch_sampler:
            yield self.cache.batch(self.split, epoch, [index for _, index in keys])


def _digest(values: Iterable[torch.Tensor]) -> str:
    digest = hashlib.blake2b()
    for value in values:
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _existing_parent(folder: Path) -> Path:
    return folder if folder.exists() else _existing_parent(folder.parent)
