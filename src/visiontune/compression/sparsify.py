"""A run most of whose backbone weights are zero."""

from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from visiontune.compression.prune import without_adapters
from visiontune.compression.step import Step, concluded, config_of, derived, in_floats
from visiontune.errors import UserError
from visiontune.runs.directory import RunDirectory
from visiontune.runs.files import save_atomically
from visiontune.training.load import load_model, read_checkpoint

SCOPES = ("global", "layer")
KEEP = "+callbacks.keep_zeros._target_=visiontune.callbacks.KeepZeros"


class Sparsify(Step):
    """Sets the smallest weights of the backbone's convolutions and linear layers to zero (Han et al. 2015,
    https://arxiv.org/abs/1506.02626). A following `TrainStep` keeps them so.

    Args:
        amount: 0..1 of the weights.
        scope: `global` (the smallest of all) or `layer` (the same share of each).

    Raises:
        UserError: an argument without meaning.
    """

    def __init__(self, amount: float, scope: str = "global") -> None:
        if not 0 < amount < 1 or scope not in SCOPES:
            raise UserError(
                f"sparsify amount={amount} scope={scope}: write an amount from 0 to 1, such as amount=0.8, and one of "
                f"{', '.join(SCOPES)}"
            )
        self.amount, self.scope = amount, scope

    def check(self, cfg: DictConfig) -> DictConfig:
        in_floats(cfg, "sparsify")
        made = without_adapters(cfg)
        made.said = [override for override in cfg.said if override != KEEP] + [KEEP]
        return made

    def apply(self, source: RunDirectory, output: Path) -> RunDirectory:
        cfg = config_of(source)
        model, _ = load_model(source, cfg, plain=True)
        weights = list(layer_weights(model.backbone.model))
        for together in [weights] if self.scope == "global" else [[weight] for weight in weights]:
            zero_smallest(together, self.amount)
        about = read_checkpoint(source.checkpoint("best"))["visiontune"]
        about.pop("adapter_scale", None)
        made = derived(source, self.check(cfg), output)
        save_atomically(made.checkpoints / "best.ckpt", {"state_dict": model.state_dict(), "visiontune": about})
        concluded(made)
        return made


def layer_weights(network: nn.Module) -> Iterator[Tensor]:
    """What inputs are multiplied with: no biases, scales or embeddings."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module.weight
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield module.in_proj_weight


@torch.no_grad()
def zero_smallest(weights: list[Tensor], amount: float) -> None:
    """Set `amount` of the numbers in all `weights` together to zero, in place."""
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    count = round(amount * len(sizes))
    if count:
        threshold = sizes.kthvalue(count).values
        for weight in weights:
            weight.masked_fill_(weight.abs() <= threshold, 0.0)
