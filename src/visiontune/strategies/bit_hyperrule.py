"""How long to train, by the size of the data."""

import math

from visiontune.strategies.base import Strategy

STEPS = ((20_000, 500), (500_000, 10_000), (math.inf, 20_000))


class BitHyperRule(Strategy):
    """Everything trains, for a number of steps that the number of training samples gives.

    500 steps below 20,000 samples, 10,000 below 500,000, else 20,000 (BiT-HyperRule, Kolesnikov et al. 2020,
    https://arxiv.org/abs/1912.11370). Its SGD, its schedule and its rate are in the YAML; its batches had 512 images,
    and its resolutions are not set here.
    """

    @staticmethod
    def epochs_for(samples: int, steps_per_epoch: int) -> int:
        """The epochs that come to those steps; one at least."""
        steps = next(count for below, count in STEPS if samples < below)
        return max(1, math.ceil(steps / steps_per_epoch))
