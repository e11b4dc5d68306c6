"""While the first stages are frozen, their outputs are computed once a picture and view, and not in every epoch."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from visiontune.backbones.backbone import Stage
from visiontune.cache.replay import IMAGE, Cut, Frozen, capture, cut
from visiontune.cache.store import Store
from visiontune.data.dataset import collate
from visiontune.data.loaders import Batch, data_loader
from visiontune.errors import UserError
from visiontune.strategies import Strategy

if TYPE_CHECKING:
    from visiontune.data import VisionData
    from visiontune.finetuner import FineTuner


class FrozenCache:
    """Gives batches of `Frozen` outputs in the epochs whose first stages are frozen, and plain ones in the others.

    A frozen stage does not change, so its outputs hold for as long as it is; what later epochs need, when fewer stages
    are frozen, is recorded in the same pass. Nothing outlives the process: a run that goes on computes the outputs
    anew, in the same batches and so to the same bits.

    Args:
        kind: `memory`, or `disk`.
        bits: of a number as it is kept, 16 or 32.
        gigabytes: that it may take at most.
        near: a place on the disk that `kept_in` will name.
    Raises:
        UserError: it would take more than it may, or more than the disk has.
    """

    def __init__(
        self, model: "FineTuner", data: "VisionData", epochs: int, kind: str, bits: int, gigabytes: float, near: Path
    ) -> None:
        self.model, self.data, self.kind, self.bits = model, data, kind, bits
        self.frozen = [frozen_stages(model.strategy, epoch) for epoch in range(epochs)]
        self.cuts = {count: at for count in sorted({*self.frozen}) if count and (at := self._cut(count))}
        self.stores = {split: Store(len(data.samples(split)), bits) for split in ("train", "val")}
        self.recorded: dict[tuple[str, int], int] = {}  # split and view -> the epoch in which they were
        self.bytes = self._bytes()
        free = shutil.disk_usage(_existing(near)).free if kind == "disk" else self.bytes
        if self.bytes > gigabytes * 1e9 or self.bytes > free:
            limit = f"the disk has {free / 1e9:.3g}" if self.bytes > free else f"strategy.cache_gb={gigabytes:g}"
            raise UserError(
                f"the outputs of the frozen stages take {self.bytes / 1e9:.3g} GB, and {limit}: write more, fewer "
                f"strategy.views, strategy.cache_bits=16, strategy.cache=disk or strategy.cache=none"
            )

    @contextmanager
    def kept_in(self, folder: Path) -> Iterator[None]:
        """Within, outputs that go to the disk are in `folder`; it is gone afterwards."""
        if self.kind == "memory":
            yield
            return
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        for split, store in self.stores.items():
            store.folder = folder / split
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def epochs(self) -> list[int]:
        """Those that train on recorded outputs."""
        return [epoch for epoch, count in enumerate(self.frozen) if count in self.cuts]

    def through(self, loader: DataLoader[Batch], split: str) -> "CachedLoader":
        """The loader of a split, which gives recorded batches where there are any."""
        return CachedLoader(self, loader, split)

    def ready(self, split: str, epoch: int) -> bool:
        """Whether this epoch runs on recorded outputs; what is not recorded yet is, now."""
        needed = {path for later in self.epochs if later >= epoch for path in self.cuts[self.frozen[later]].needed}
        self.stores[split].keep(needed)
        if epoch not in self.epochs:
            return False
        key = split, self._view(split, epoch)
        if key not in self.recorded or not self._holds(self.recorded[key], epoch):
            self._record(*key, epoch)
            self.recorded[key] = epoch
        return True

    def batch(self, split: str, epoch: int, indices: list[int]) -> Batch:
        """As the loader would give it, with `frozen` instead of what is in `image`."""
        view, at, store = self._view(split, epoch), self.cuts[self.frozen[epoch]], self.stores[split]
        index = torch.tensor(indices)
        values = {path: store.get(view, path, index) for path in at.needed}
        nothing = torch.zeros(()).expand(len(indices), self.data.channels, *self.data.image_size)
        image = values.pop(IMAGE, nothing)
        batch = collate([store.items[view][i] for i in indices])
        return batch | {"image": image, "frozen": Frozen(values, at.shapes)}

    def _holds(self, since: int, epoch: int) -> bool:
        """Whether nothing that is frozen in `epoch` has trained since."""
        return min(self.frozen[since : epoch + 1]) >= self.frozen[epoch]

    def _view(self, split: str, epoch: int) -> int:
        return self.data.view(epoch) if split == "train" else 0

    def _needed(self, split: str, view: int, since: int) -> set[str]:
        """What the epochs of a view need that can be recorded in epoch `since`."""
        epochs = [e for e in self.epochs if e >= since and self._view(split, e) == view and self._holds(since, e)]
        return {path for epoch in epochs for path in self.cuts[self.frozen[epoch]].needed}

    @torch.inference_mode(False)
    @torch.no_grad()
    def _record(self, split: str, view: int, epoch: int) -> None:
        model, store, network = self.model, self.stores[split], self.model.backbone.model
        needed = self._needed(split, view, epoch)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        store.items[view] = []
        for items in self._items(split, view):
            batch = move_data_to_device(collate(items), model.device)
            image = self.data.to_network(batch)["image"]
            with model.trainer.precision_plugin.forward_context():
                outputs = capture(model.forward, network, sorted(needed - {IMAGE}), image)
            rows = torch.arange(len(store.items[view]), len(store.items[view]) + len(items))
            for path in needed:
                store.put(view, path, rows, image if path == IMAGE else outputs[path])
            store.items[view] += [{key: value for key, value in item.items() if key != "image"} for item in items]
        for module, training in modes:
            module.training = training

    def _items(self, split: str, view: int) -> Iterable[list[dict[str, Any]]]:
        """All samples of a view in their order."""
        dataset, size = self.data.dataset(split, augmented=split == "train"), self.data.batch_size
        keys = [(view, index) for index in range(len(dataset))]
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        return data_loader(dataset, batches, self.data.num_workers, collate=list)

    def _cut(self, count: int) -> Cut | None:
        """What replaces the first `count` stages."""
        model = self.model
        image = torch.rand(2, self.data.channels, *self.data.image_size, generator=torch.Generator().manual_seed(0))
        image = image.to(model.device, memory_format=torch.channels_last)
        training = [(module, module.training) for module in model.modules()]
        model.eval()
        found = cut(model.forward, model.backbone.model, stage_paths(model, count), image)
        for module, mode in training:
            module.training = mode
        return found

    def _bytes(self) -> int:
        total = 0
        for split, store in self.stores.items():
            for view in {self._view(split, epoch) for epoch in self.epochs}:
                epochs = [epoch for epoch in self.epochs if self._view(split, epoch) == view]
                for path in {path for epoch in epochs for path in self.cuts[self.frozen[epoch]].needed}:
                    total += store.samples * self._size(path) * self.bits // 8
        return total

    def _size(self, path: str) -> int:
        """How many numbers one sample's output has."""
        shapes: dict[str, tuple[int, ...]] = {IMAGE: (self.data.channels, *self.data.image_size)}
        for at in self.cuts.values():
            shapes |= at.shapes
        return torch.Size(shapes[path]).numel()


class CachedLoader:
    """A loader whose epochs on recorded outputs load no pictures."""

    def __init__(self, cache: FrozenCache, loader: DataLoader[Batch], split: str) -> None:
        self.cache, self.loader, self.split = cache, loader, split
        self.batch_sampler: Any = loader.batch_sampler  # the Trainer tells it the epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.cache.data.trainer
        assert trainer is not None
        epoch = self.batch_sampler.epoch if self.split == "train" else trainer.current_epoch
        if not self.cache.ready(self.split, epoch):
            yield from self.loader
            return
        for keys in self.batch_sampler:
            yield self.cache.batch(self.split, epoch, [index for _, index in keys])


def stage_paths(model: "FineTuner", count: int) -> list[str]:
    """Of the modules of the first `count` stages."""
    stages = cast(list[tuple[str, Stage]], model.backbone.stages()[:count])
    modules = dict(model.backbone.model.named_modules())
    return [path for _, stage in stages for path in stage.paths if path in modules]  # the others are parameters


def frozen_stages(strategy: Strategy, epoch: int) -> int:
    """How many stages are frozen from the input on."""
    trainable = strategy.trainable(epoch)
    return next(i for i, name in enumerate(strategy.stages) if name in trainable)


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
