"""The base class of strategies, and the parameter groups that they share."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from visiontune.errors import UserError

Stages = list[tuple[str, nn.Module]]
HEADS = "heads"  # the name of the last stage
NO_DECAY = ".no_decay"  # ends the name of a stage's second group


class Strategy:
    """Decides which stages train in which epoch, and at which learning rate.

    Its methods are pure functions of the epoch, so it needs no state in checkpoints. The exception is a strategy that
    unfreezes by validation scores (`observe`): checkpoints hold its decisions (`state_dict`).

    This base class trains everything from the first step; subclasses override methods. To use your own class, name it
    in YAML, or write `strategy=full strategy._target_=visiontune.strategies.mine.Mine`.

    Args:
        stages: names of the stages from input to output, the heads last.
        epochs: number of epochs of the whole training.
        lr_decay: learning rate of a stage divided by that of the next stage, in (0, 1]; 1 = the same for all.
        batchnorm: "frozen" keeps the pretrained statistics in the stages that train, "train" updates them.

    Raises:
        UserError: `lr_decay` is out of range, or `batchnorm` is neither "frozen" nor "train".
    """

    def __init__(self, stages: list[str], epochs: int, lr_decay: float = 1.0, batchnorm: str = "frozen") -> None:
        if batchnorm not in ("frozen", "train"):
            raise UserError(f"strategy.batchnorm={batchnorm}: write frozen or train")
        self.stages, self.epochs, self.batchnorm = list(stages), epochs, batchnorm
        self.lr_decay = check_decay(lr_decay, "lr_decay")

    def prepare(self, network: nn.Module) -> None:
        """Change the network after its weights are loaded and before the optimizer is built."""

    def prepare_heads(self, shared: Sequence[nn.Parameter]) -> None:
        """Called after `prepare`.

        Args:
            shared: parameters of heads that have layers for classes (`Head.class_rows`), except these layers.
        """

    def describe(self) -> dict[str, Any]:
        """Plain data, saved in every checkpoint, that is needed to read its weights."""
        return {}

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups with `name`, `stage`, `params`, `lr` and `weight_decay`; each parameter is in one group.

        All groups exist from step 0, also those of stages that unfreeze later. Adding groups later would break resume,
        schedulers with state per group and weight averages.
        """
        return [
            group
            for i, (name, module) in enumerate(stages)
            for group in build_groups(
                name, name, list(module.parameters()), lr * self.lr_scale(name, len(stages) - 1 - i), weight_decay
            )
        ]

    def lr_scale(self, stage: str, distance: int) -> float:
        """Learning rate of a stage divided by that of the heads, which are `distance` stages later."""
        return self.lr_decay**distance

    def trainable(self, epoch: int) -> set[str]:
        """Names of the stages that train in this epoch; a pure function."""
        return set(self.stages)

    def trains_parameter(self, module: nn.Module, name: str) -> bool:
        """Whether the parameter `module.name` of a backbone stage trains while its stage trains."""
        return True

    def trains_head_parameter(self, module: nn.Module, name: str) -> bool:
        """Whether the parameter `module.name` of the stage of the heads trains while this stage trains."""
        return True

    def observe(self, epochs: int, score: float) -> list[str]:
        """Record the validation score after `epochs` whole epochs (higher is better; 0: before the first step).

        A second call with the same arguments changes nothing.

        Returns:
            The stages that this score unfreezes.
        """
        return []

    def when(self, stage: str) -> str | None:
        """When a stage unfreezes, as text, if validation scores decide it; None if `trainable` does."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data: the decisions so far, and what further decisions need."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""

    def warmup(self, stage: str, epoch: float) -> float:
        """Factor of a stage's learning rate, 0..1; `epoch` counts parts of epochs (2.5: the middle of the third)."""
        return 1.0


def build_groups(
    name: str, stage: str, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Build up to two groups: weights with weight decay, and norms and biases without."""
    weights = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [(name, weights, weight_decay), (name + NO_DECAY, vectors, 0.0)]
    return [
        {"name": group, "stage": stage, "params": params, "lr": lr, "weight_decay": decay}
        for group, params, decay in groups
        if params
    ]


def check_decay(decay: float, key: str) -> float:
    """Return `decay`, and raise UserError if it is outside (0, 1]."""
    if not is_number(decay) or not 0 < decay <= 1:
        raise UserError(f"strategy.{key}={decay}: a factor above 0 and at most 1, such as strategy.{key}=0.8")
    return decay


def check_stage_count(count: int, key: str, stages: list[str]) -> int:
    """Return `count`, and raise UserError if it is below 1 or the backbone has fewer stages."""
    if not isinstance(count, int) or not 1 <= count < len(stages):
        raise UserError(
            f"strategy.{key}={count}: the backbone has the {len(stages) - 1} stages {', '.join(stages[:-1])}; "
            f"write a number of them, such as strategy.{key}=1"
        )
    return count


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
