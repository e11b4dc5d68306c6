"""What a strategy is, and the parameter groups that all of them share."""

from typing import Any

from torch import nn

from visiontune.errors import UserError

Stages = list[tuple[str, nn.Module]]
HEADS = "heads"  # the name of the last stage
NO_DECAY = ".no_decay"  # ends the name of a stage's second group


class Strategy:
    """What trains when, and how fast: pure functions of the epoch, so that nothing of it stands in a checkpoint.

    The exception is what a strategy decides by the scores that it is told (`observe`): data that these functions read,
    which checkpoints hold (`state_dict`).

    This one trains everything from the first step; a strategy overrides what it does differently. One of your own is a
    class that is named in YAML, or: `strategy=full strategy._target_=visiontune.strategies.mine.Mine`.

    Args:
        stages: names, input to output, the heads last.
        epochs: of the whole training.
        lr_decay: learning rate of a stage over that of the stage after it, in (0, 1]; 1 = one rate for all.
        batchnorm: "frozen" keeps the pretrained statistics in the stages that train, "train" goes on learning them.

    Raises:
        UserError: a decay out of range, or another word for `batchnorm`.
    """

    def __init__(self, stages: list[str], epochs: int, lr_decay: float = 1.0, batchnorm: str = "frozen") -> None:
        if batchnorm not in ("frozen", "train"):
            raise UserError(f"strategy.batchnorm={batchnorm}: write frozen or train")
        self.stages, self.epochs, self.batchnorm = list(stages), epochs, batchnorm
        self.lr_decay = checked_decay(lr_decay, "lr_decay")

    def prepare(self, network: nn.Module) -> None:
        """Change the network, its weights loaded, before anything is built on it."""

    def describe(self) -> dict[str, Any]:
        """Plain data that every checkpoint has along: what reading its weights takes."""
        return {}

    def param_groups(self, stages: Stages, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups with `name`, `stage`, `params`, `lr`, `weight_decay`: every parameter in exactly one.

        All groups exist from step 0; a stage that unfreezes later is only switched on (groups added later break resume,
        schedulers with state per group and weight averages).
        """
        return [
            group
            for i, (name, module) in enumerate(stages)
            for group in groups_of(
                name, name, list(module.parameters()), lr * self.rate(name, len(stages) - 1 - i), weight_decay
            )
        ]

    def rate(self, stage: str, distance: int) -> float:
        """Learning rate of a stage over that of the heads, from which it is `distance` stages away."""
        return self.lr_decay**distance

    def trainable(self, epoch: int) -> set[str]:
        """Names of the stages that train in this epoch; the same answer however often and whenever it is asked."""
        return set(self.stages)

    def picks(self, module: nn.Module, name: str) -> bool:
        """Whether a parameter of a backbone stage trains where its stage does; `module` owns it as `name`."""
        return True

    def observe(self, epochs: int, score: float) -> list[str]:
        """Take note of the score after so many whole epochs (more is better; 0 epochs: before the first step).

        Returns:
            The stages that train from here on because of it; saying the same again decides nothing more.
        """
        return []

    def when(self, stage: str) -> str | None:
        """In words, where scores decide when a stage trains; None where `trainable` knows."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data: what was decided by scores, and what is needed to go on deciding."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def warmup(self, stage: str, epoch: float) -> float:
        """Factor 0..1 of a stage's learning rate at a point within an epoch (2.5 is the middle of the third)."""
        return 1.0


def groups_of(
    name: str, stage: str, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Up to two groups: weights, which decay, and norms and biases, which do not."""
    weights = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    both = [(name, weights, weight_decay), (name + NO_DECAY, rest, 0.0)]
    return [
        {"name": called, "stage": stage, "params": params, "lr": lr, "weight_decay": decay}
        for called, params, decay in both
        if params
    ]


def checked_decay(decay: float, key: str) -> float:
    """Raises UserError outside (0, 1]."""
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise UserError(f"strategy.{key}={decay}: a factor above 0 and at most 1, such as strategy.{key}=0.8")
    return decay


def chosen(count: int, key: str, stages: list[str]) -> int:
    """`count` stages of the backbone.

    Raises:
        UserError: it has fewer, or none are asked for.
    """
    if not isinstance(count, int) or not 1 <= count < len(stages):
        raise UserError(
            f"strategy.{key}={count}: the backbone has the {len(stages) - 1} stages {', '.join(stages[:-1])}"
        )
    return count
