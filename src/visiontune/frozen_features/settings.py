"""From `strategy.cache` and its sisters in the config to the views and the cache of a run."""

from pathlib import Path

from omegaconf import DictConfig

from visiontune.config.devices import processes
from visiontune.data import VisionData
from visiontune.errors import UserError
from visiontune.frozen_features.cache import FrozenCache, frozen_stages
from visiontune.models.finetuner import FineTuner
from visiontune.strategies import Strategy

KEYS = ("cache", "views", "cache_bits", "cache_gb")  # of the strategy group, and no arguments of a strategy
VIEWS = 2  # where a cache is asked for and their number is not


def attach(cfg: DictConfig, data: VisionData, model: FineTuner) -> None:
    """Give `data` its views, and its cache where one is asked for and possible.

    Raises:
        UserError: a value out of range, or a cache larger than it may be.
    """
    kind, views, bits, gigabytes = (cfg.strategy.get(key) for key in KEYS)
    if kind not in (None, "none", "memory", "disk"):
        raise UserError(f"strategy.cache={kind}: write none, memory or disk")
    if views is not None and (not isinstance(views, int) or views < 1):
        raise UserError(f"strategy.views={views}: write null (every epoch its own), or how many views an image has")
    if bits not in (None, 16, 32):
        raise UserError(f"strategy.cache_bits={bits}: write 16 or 32")
    if gigabytes is not None and not gigabytes > 0:
        raise UserError(f"strategy.cache_gb={gigabytes}: write a size above 0, such as strategy.cache_gb=4")
    cached = kind in ("memory", "disk") and why_not(cfg, data, model) is None
    data.view = Views(model.strategy, views or (VIEWS if cached else None))
    if cached:
        where = Path(cfg.run_dir or cfg.paths.logs).expanduser().absolute()
        data.frozen = FrozenCache(model, data, cfg.trainer.max_epochs, kind, bits, gigabytes, where)
        if not data.frozen.epochs:  # fewer views for nothing
            data.view = Views(model.strategy, views)


class Views:
    """epoch -> view: while stages are frozen they come round, afterwards every epoch has its own."""

    def __init__(self, strategy: Strategy, count: int | None) -> None:
        self.strategy, self.count = strategy, count

    def __call__(self, epoch: int) -> int:
        return epoch % self.count if self.count and frozen_stages(self.strategy, epoch) else epoch


def why_not(cfg: DictConfig, data: VisionData, model: FineTuner) -> str | None:
    """What stands against recorded outputs being those that the network would give; None for nothing."""
    if not any(frozen_stages(model.strategy, epoch) for epoch in range(cfg.trainer.max_epochs)):
        return "the first stage trains from the first epoch"
    if any(model.strategy.when(stage) for stage in model.strategy.stages):
        return "scores decide how long stages stay frozen"
    if data.augment.mixup or data.augment.cutmix:
        return "mixup and cutmix mix images before the network sees them; write augment=standard"
    for term in model.loss_terms:
        if term.needs_images:
            return f"the {term.label} needs the images themselves"
    if cfg.compile:
        return "compile=true joins frozen and other stages"
    if processes(cfg) > 1:
        return "of several processes each sees other images in every epoch"
    return None


def describe(cfg: DictConfig, data: VisionData, model: FineTuner) -> str:
    """What the plan says of it."""
    cache = data.frozen
    if cache is None:
        asked = cfg.strategy.get("cache") not in (None, "none")
        return f"off: {why_not(cfg, data, model)}" if asked else "computed in every epoch (strategy.cache=none)"
    if not cache.epochs:
        return "off: nothing can stand for the first stages of this backbone"
    return (
        f"computed once for {cfg.strategy.views or VIEWS} views an image, kept on {cache.kind} in {cache.bits} bits: "
        f"{cache.bytes / 1e9:.2g} GB, {len(cache.epochs)} of {len(cache.frozen)} epochs train on them"
    )
