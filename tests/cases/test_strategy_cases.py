"""Strategies that do not fit the network: one message, before anything is started."""

from collections.abc import Callable

import pytest
from running import SCENES, Outcome

FROZEN = ["backbone.name=mobilenet_v3_small", "backbone.library=torchvision", "backbone.norm=frozen"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [*SCENES, "heads=segmentation", "strategy=head_only"],
            "the strategy HeadOnly trains only the layers of heads.segmentation that depend on classes, and its other "
            "layers begin random: write strategy=linear_probe, which trains the whole head, or begin from a pretrained "
            "head with pretrained=NAME or weights_from=RUN",
        ),
        (
            [*FROZEN, "strategy=norm_only"],
            "the strategy NormOnly trains no parameter of the backbone mobilenet_v3_small, whose BatchNorm is frozen: "
            "write backbone.norm=batch, or strategy=linear_probe to train the heads alone",
        ),
        (
            [*FROZEN, "strategy.batchnorm=train"],
            "strategy.batchnorm=train: backbone.norm=frozen keeps the statistics of its BatchNorm; leave out "
            "strategy.batchnorm, or write backbone.norm=batch",
        ),
    ],
)
def test_what_does_not_fit_is_refused(plan: Callable[..., Outcome], overrides: list[str], message: str) -> None:
    assert plan(*overrides).message == message


def test_a_head_without_class_layers_trains_whole(plan: Callable[..., Outcome]) -> None:
    plans = [plan(f"strategy={name}").out for name in ("head_only", "linear_probe")]
    first, second = ([line for line in text.splitlines() if line.startswith("heads ")] for text in plans)
    assert first == second != []
