"""While the first stages are frozen, their outputs are computed once an image and view, and not in every epoch."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from visiontune.data.dataset import collate
from visiontune.data.loaders import Batch, data_loader
from visiontune.errors import UserError
from visiontune.frozen_features.store import Store
from visiontune.models.backbones.backbone import Stage
from visiontune.models.replay import IMAGE, Cut, Frozen, capture, cut, tensors
from visiontune.strategies import Strategy

if TYPE_CHECKING:
    from visiontune.data import VisionData
    from visiontune.models.finetuner import FineTuner


SPLITS = ("train", "val")
PROBED = 8  # samples whose targets say how much all take


class FrozenCache:
    """Gives batches of `Frozen` outputs in the epochs whose first stages are frozen, and plain ones in the others.

    A frozen stage does not change, so its outputs hold for as long as it is; what later epochs need, when fewer stages
    are frozen, is recorded in the same pass. Weights that changed all the same are recorded anew: those of a stage that
    trained before it froze, whose average, which is validated, goes on changing. Nothing outlives the process: a run
    that goes on computes the outputs anew, in the same batches and so to the same bits.

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
        self.stores: dict[str, Store] = {}
        self.recorded: dict[tuple[str, int], list[str]] = {}  # split and view -> of which weights
        self.bytes = self._bytes()
        free = shutil.disk_usage(_existing(near)).free
        less = "fewer strategy.views, strategy.cache_bits=16 or strategy.cache=none"
        if self.bytes > gigabytes * 1e9:
            raise UserError(
                f"the outputs of the frozen stages and the targets take {self.bytes / 1e9:.3g} GB, and "
                f"strategy.cache_gb={gigabytes:g}: write more, {less}"
            )
        if kind == "disk" and self.bytes > free:
            raise UserError(
                f"the outputs of the frozen stages take {self.bytes / 1e9:.3g} GB, and the disk has {free / 1e9:.3g}: "
                f"write {less}"
            )

    @contextmanager
    def kept_in(self, folder: Path) -> Iterator[None]:
        """Within, outputs can be kept: those that go to the disk in files of `folder` that have no name."""
        place = folder if self.kind == "disk" else None
        self.stores = {split: Store(len(self.data.samples(split)), self.bits, place) for split in SPLITS}
        try:
            yield
        finally:
            self.stores = {}

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
        key, weights = (split, self._view(split, epoch)), self._weights(self.frozen[epoch])
        if self.recorded.get(key, [])[: len(weights)] != weights:
            self._record(*key, epoch)
            self.recorded[key] = weights
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

    def _weights(self, count: int) -> list[str]:
        """What the first `count` stages are, to the last bit: a sum of each."""
        stages = self.model.backbone.stages()[:count]
        return [_sum(stage.state_dict().values()) for _, stage in stages]

    def _view(self, split: str, epoch: int) -> int:
        return self.data.view(epoch) if split == "train" else 0

    def _needed(self, split: str, view: int, since: int) -> set[str]:
        """What the epochs of a view need from epoch `since` on."""
        epochs = [epoch for epoch in self.epochs if epoch >= since and self._view(split, epoch) == view]
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
            beside = [_without_image(item) for item in items]
            # What comes from a data-loader worker is an open file here, each tensor.
            store.items[view] += deepcopy(beside) if self.data.num_workers else beside
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
        behind = [parameter for _, stage in model.backbone.stages()[count:] for parameter in stage.parameters()]
        found = cut(model.forward, model.backbone.model, stage_paths(model, count), image, trained=behind)
        for module, mode in training:
            module.training = mode
        return found

    def _bytes(self) -> int:
        total = 0
        for split in SPLITS:
            samples = len(self.data.samples(split))
            for view in {self._view(split, epoch) for epoch in self.epochs}:
                for path in self._needed(split, view, since=0):
                    total += samples * self._size(path) * self.bits // 8
                total += samples * self._beside(split)
        return total

    def _beside(self, split: str) -> int:
        """Bytes of one sample's targets, which stay in memory; the mean of a few."""
        targets = [target for sample in self.data.samples(split) for target in sample.targets.values()]
        if all(target is None or isinstance(target, int) for target in targets):
            return 0
        dataset = self.data.dataset(split, augmented=split == "train")
        some = range(0, len(dataset), max(1, len(dataset) // PROBED))
        return sum(tensor.nbytes for i in some for tensor in tensors(_without_image(dataset[i]))) // len(some)

    def _size(self, path: str) -> int:
        """How many numbers one sample's output has."""
        shapes: dict[str, tuple[int, ...]] = {IMAGE: (self.data.channels, *self.data.image_size)}
        for at in self.cuts.values():
            shapes |= at.shapes
        return torch.Size(shapes[path]).numel()


class CachedLoader:
    """A loader whose epochs on recorded outputs load no images."""

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


def _sum(values: Iterable[torch.Tensor]) -> str:
    digest = hashlib.blake2b()
    for value in values:
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _without_image(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "image"}


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
