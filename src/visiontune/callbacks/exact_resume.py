"""Additions to Lightning's checkpoints, so that a resumed run equals an uninterrupted one, bit for bit."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from visiontune.models.distributed import gather_ranks
from visiontune.models.progress import epoch_ended

KEY = "exact_resume"  # in a checkpoint


class ExactResume(L.Callback):
    """Saves and restores the state that makes a resumed run equal to an uninterrupted one, also within an epoch.

    Under `checkpoint["exact_resume"]`:

    - `ranks`: for each rank the epoch's running means, and (with several ranks) the buffers of the network and of its
      average. BatchNorm statistics differ between ranks until a validation averages them, and only rank 0 writes a
      checkpoint.
    - `gradients`: the sums of an accumulation window that is not complete.
    - `loss_terms`: the parameters of the extra loss terms, which no state dict contains.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}  # from the checkpoint that the training resumes from

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        rank: dict[str, Any] = {"means": pl_module.train_means.state_dict()}
        if trainer.world_size > 1:
            rank["buffers"] = [
                {name: buffer.cpu() for name, buffer in _buffers(network).items()}
                for network in _networks(trainer, pl_module)
            ]
        state: dict[str, Any] = {
            "ranks": gather_ranks(trainer, rank),
            "loss_terms": [parameter.detach() for parameter in pl_module.loss_terms.parameters()],
        }
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if batches % trainer.accumulate_grad_batches and not epoch_ended(trainer):
            state["gradients"] = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
        checkpoint[KEY] = state

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.state = checkpoint.get(KEY, {})

    # At this point the model is on its device, and all other callbacks have loaded their parts of the checkpoint.
    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        state, self.state = self.state, {}
        if not state:
            return
        ranks = state["ranks"]
        same_count = len(ranks) == trainer.world_size
        rank = ranks[trainer.global_rank if same_count else 0]
        pl_module.train_means.load_state_dicts([rank["means"]], pl_module.device)
        for network, saved in zip(_networks(trainer, pl_module), rank.get("buffers", []), strict=False):
            for name, buffer in _buffers(network).items():
                buffer.copy_(saved[name])
        for parameter, saved in zip(pl_module.loss_terms.parameters(), state["loss_terms"], strict=True):
            parameter.copy_(saved)
        for name, parameter in pl_module.named_parameters():
            if name in state.get("gradients", {}):
                parameter.grad = state["gradients"][name].to(parameter)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch:  # else Lightning skips a plateau schedule's step in an epoch that was resumed within
            trainer.fit_loop.restarting = False


def saved_ranks(checkpoint: dict[str, Any]) -> int:
    """The number of ranks of the training that wrote a checkpoint."""
    return len(checkpoint.get(KEY, {}).get("ranks", [None]))


def _networks(trainer: Any, pl_module: nn.Module) -> list[nn.Module]:
    """The network that trains and its average, if there is one."""
    averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
    return [pl_module, *(callback._average_model.module for callback in averages if callback._average_model)]


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state dict contains."""
    names = network.state_dict().keys()
    return {name: buffer for name, buffer in network.named_buffers() if name in names}
