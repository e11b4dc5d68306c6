"""The samples of each batch: a pure function of seed, epoch, rank and world size; and where to resume."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import lightning as L
import torch
from torch.utils.data import Sampler

from visiontune.data.seeding import derive

BEGINNING = {"epoch": 0, "done": 0}


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of `(view, index)` pairs, so that data-loader workers need no state to know the epoch (or its view).

    Rank r takes every world-th sample of the common order, so that step k of all ranks together has the samples of step
    k of a single process with the same global batch size. In training, the order wraps around to equal lengths, and a
    last batch of one sample per rank is dropped (BatchNorm cannot compute a variance). In evaluation, nothing is
    repeated or dropped; all ranks have the same number of batches if possible, since ranks wait for each other.

    Args:
        count: number of samples.
        batch_size: samples per rank and step.
        shuffle: True in training, False in evaluation, which keeps the order.
        weights: sampling weights; `count` samples per epoch are drawn with replacement.
        at_most: largest number of samples in an evaluation, evenly spaced.
        view: epoch -> the number that seeds augmentation; None is the epoch itself.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        weights: Sequence[float] | None = None,
        at_most: int | None = None,
        rank: int = 0,
        world: int = 1,
        view: Callable[[int], int] | None = None,
    ) -> None:
        self.total, self.count = count, min(count, count if at_most is None else at_most)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.rank, self.world = rank, world
        self.view = view or int
        self.epoch = 0
        self._skip = 0

    @property
    def sampler(self) -> "EpochBatches":
        """Itself, since the Trainer calls `set_epoch` of a batch sampler's `sampler`, not of the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.epoch = epoch

    def resume_at(self, epoch: int, done: int) -> None:
        """Skip the first `done` batches of `epoch` in the next pass; the arguments come from `progress`."""
        self.set_epoch(epoch)  # data-loader workers start before the Trainer calls it
        self._skip = done

    def order(self, epoch: int) -> list[int]:
        """The sample indices of an epoch, before they are sharded among ranks."""
        if not self.shuffle:
            return [i * self.total // self.count for i in range(self.count)]
        generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
        if self.weights is not None:
            return torch.multinomial(self.weights, self.count, replacement=True, generator=generator).tolist()
        return torch.randperm(self.count, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, skip, self._skip = self.epoch, self._skip, 0
        order = self.order(epoch)
        if self.shuffle:
            order += order[: -len(order) % self.world]
        shard = order[self.rank :: self.world]
        start = 0
        for number, size in enumerate(self._sizes(len(shard))):
            if number >= skip:
                yield [(self.view(epoch), index) for index in shard[start : start + size]]
            start += size

    def __len__(self) -> int:
        share = len(range(self.rank, self.count, self.world)) if not self.shuffle else -(-self.count // self.world)
        return len(self._sizes(share))

    def _sizes(self, share: int) -> list[int]:
        """The size of each batch of a rank with `share` samples."""
        whole, rest = divmod(share, self.batch_size)
        if self.shuffle:
            drop = rest == 1 and whole > 0
            return [self.batch_size] * whole + ([rest] if rest and not drop else [])
        if self.world == 1:
            return [self.batch_size] * whole + ([rest] if rest else [])
        largest = -(-self.count // self.world)
        batches = min(-(-largest // self.batch_size), share)
        return [share // batches + (i < share % batches) for i in range(batches)] if batches else []


def progress(trainer: L.Trainer) -> dict[str, int]:
    """The epoch in which to resume, and how many of its batches are done and need not be loaded again."""
    loop = trainer.fit_loop
    done, epoch = loop.epoch_loop.batch_progress.current.completed, loop.epoch_progress.current
    if done >= trainer.num_training_batches:
        return {"epoch": epoch.ready, "done": 0}
    return {"epoch": epoch.completed, "done": done}


def balanced_weights(labels: Sequence[int | None]) -> list[float]:
    """One over the frequency of each sample's class, so that all classes are drawn equally often.

    Samples without a class form an additional class.
    """
    frequency = Counter(labels)
    return [1 / frequency[label] for label in labels]
