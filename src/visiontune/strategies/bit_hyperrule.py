"""Fine-tuning with a number of steps that depends on the size of the data."""

import math

from visiontune.strategies.base import Strategy

STEPS = ((20_000, 500), (500_000, 10_000), (math.inf, 20_000))


class BitHyperRule(Strategy):
    """Everything trains; the number of training samples decides the number of steps.

    500 steps below 20,000 samples, 10,000 below 500,000, else 20,000 (BiT-HyperRule, Kolesnikov et al. 2020,
    https://arxiv.org/abs/1912.11370). `configs/strategy/bit_hyperrule.yaml` sets the paper's SGD, schedule and learning
    rate. The paper's batch size (512) and resolutions are not set.
    """

    @staticmethod
    def epochs_for(samples: int, steps_per_epoch: int) -> int:
        """Number of epochs that have at least this number of steps."""
        steps = next(count for below, count in STEPS if samples < below)
        return max(1, math.ceil(steps / steps_per_epoch))
