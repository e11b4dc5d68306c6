"""Apply the group `frozen_features`: views of the training images, and a cache of the outputs of frozen stages."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from omegaconf import DictConfig

from visiontune.data import VisionData
from visiontune.frozen_features.cache import FrozenFeatureCache
from visiontune.frozen_features.plans import count_frozen_stages
from visiontune.models.finetuner import FineTuner
from visiontune.strategies import Strategy

DEFAULT_VIEWS = 2  # with a cache


def attach_cache(cfg: DictConfig, data: VisionData, model: FineTuner) -> None:
    """Set `data.view`, and `data.wrap_loader` if the config asks for a cache and a cache is possible.

    Raises:
        UserError: the cache would be larger than `frozen_features.max_gb`, or than the free space of the disk.
    """
    settings = cfg.frozen_features
    place, views, bits, max_gb = settings.cache, settings.views, settings.bits, settings.max_gb
    cached = place != "none" and explain_no_cache(cfg, data, model) is None
    data.view = Views(model.strategy, views or (DEFAULT_VIEWS if cached else None))
    if cached:
        folder = Path(cfg.run_dir or cfg.paths.logs).expanduser().absolute()
        cache = FrozenFeatureCache(model, data, cfg.trainer.max_epochs, place, bits, max_gb, folder)
        data.wrap_loader = cache
        if not cache.epochs:  # repeated views would save nothing
            data.view = Views(model.strategy, views)


@contextmanager
def cache_files(data: VisionData, folder: Path) -> Iterator[None]:
    """Open the cache of `data`, if it has one, within the block; a cache on the disk uses files in `folder`."""
    cache = data.wrap_loader
    with cache.open(folder) if isinstance(cache, FrozenFeatureCache) else nullcontext():
        yield


class Views:
    """epoch -> view: `count` views alternate while stages are frozen; afterwards each epoch has a new view.

    With `count=None`, each epoch has a new view from the first one.
    """

    def __init__(self, strategy: Strategy, count: int | None) -> None:
        self.strategy, self.count = strategy, count

    def __call__(self, epoch: int) -> int:
        return epoch % self.count if self.count and count_frozen_stages(self.strategy, epoch) else epoch


def explain_no_cache(cfg: DictConfig, data: VisionData, model: FineTuner) -> str | None:
    """Why recorded outputs cannot replace those of the network; None if they can."""
    if not any(count_frozen_stages(model.strategy, epoch) for epoch in range(cfg.trainer.max_epochs)):
        return "the first stage trains from the first epoch"
    if any(model.strategy.when(stage) for stage in model.strategy.stages):
        return "validation scores decide when stages unfreeze"
    if not data.has_views:
        return "data.datamodule makes its own batches"
    if data.augment.mixup or data.augment.cutmix:
        return "mixup and cutmix mix images before the network sees them; write augment=standard"
    for term in model.loss_terms:
        if term.needs_images:
            return f"the {term.label} needs the images themselves"
    if cfg.compile:
        return "compile=true merges frozen stages with others"
    if cfg.trainer.devices > 1:
        return "each rank gets other images in every epoch"
    return None


def describe_cache(cfg: DictConfig, data: VisionData, model: FineTuner) -> str:
    """The line of the plan about frozen stages."""
    cache = data.wrap_loader
    if not isinstance(cache, FrozenFeatureCache):
        reason = None if cfg.frozen_features.cache == "none" else explain_no_cache(cfg, data, model)
        return f"off: {reason}" if reason else "computed in every epoch (frozen_features.cache=none)"
    if not cache.epochs:
        return "off: no recorded outputs can replace the first stages of this backbone"
    return (
        f"computed once for {cfg.frozen_features.views or DEFAULT_VIEWS} views of each image, stored "
        f"{'on disk' if cache.place == 'disk' else 'in memory'} with {cache.bits} bits: {cache.bytes / 1e9:.2g} GB; "
        f"{len(cache.epochs)} of {len(cache.frozen_counts)} epochs train on them"
    )
