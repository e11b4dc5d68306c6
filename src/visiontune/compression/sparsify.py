"""Set most of a run's backbone weights to zero."""

from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from visiontune.compression.step import Step, derive_run, finalize_run, require_float_model, source_config
from visiontune.config.derive import derive
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.training.load import load_model, read_checkpoint, without_adapters

SCOPES = ("global", "layer")
KEEP = "+callbacks.keep_zeros._target_=visiontune.callbacks.KeepZeros"


class Sparsify(Step):
    """Sets the smallest weights of the backbone's convolutions and linear layers to zero.

    Han et al. 2015, https://arxiv.org/abs/1506.02626. A `TrainStep` after it keeps these weights at zero.

    Args:
        amount: the fraction of weights that become zero, 0..1.
        scope: `global` (the smallest weights of all layers) or `layer` (the same fraction of each layer).

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(self, amount: float, scope: str = "global") -> None:
        if not 0 < amount < 1 or scope not in SCOPES:
            raise UserError(
                f"sparsify amount={amount} scope={scope}: write an amount between 0 and 1, such as amount=0.8, and "
                f"one of {', '.join(SCOPES)}"
            )
        self.amount, self.scope = amount, scope

    def check(self, cfg: DictConfig) -> DictConfig:
        require_float_model(cfg, "sparsify")
        overrides = [override for override in cfg.overrides if override != KEEP] + [KEEP]
        return derive(without_adapters(cfg), {"overrides": overrides})

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        cfg = source_config(source)
        model, _ = load_model(source, cfg, plain=True)
        weights = list(layer_weights(model.backbone.model))
        for group in [weights] if self.scope == "global" else [[weight] for weight in weights]:
            zero_smallest(group, self.amount)
        description = read_checkpoint(source.checkpoint("best"))["visiontune"]
        description.pop("adapter_scale", None)
        run = derive_run(source, self.check(cfg), output)
        save_atomically(run.checkpoints / "best.ckpt", {"state_dict": model.state_dict(), "visiontune": description})
        finalize_run(run)
        return run


def layer_weights(network: nn.Module) -> Iterator[Tensor]:
    """The weights of convolutions, linear layers and attention, without biases, scales and embeddings."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module.weight
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield module.in_proj_weight


@torch.no_grad()
def zero_smallest(weights: list[Tensor], amount: float) -> None:
    """Set the fraction `amount` of all `weights` together to zero, the smallest ones, in place."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    count = round(amount * len(sizes))
    if count:
        threshold = sizes.kthvalue(count).values
        for weight in weights:
            weight.masked_fill_(weight.abs() <= threshold, 0.0)
