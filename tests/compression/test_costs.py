"""Multiply-adds and parameters equal a count by hand and published numbers."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torchvision import models

from visiontune.compression.costs import macs, params
from visiontune.data import TaskInfo
from visiontune.training.build import build_finetuner

SCHEMA = {"classification": TaskInfo("classification", ("a", "b", "c"))}


def test_a_small_network_by_hand(config: Callable[..., DictConfig]) -> None:
    model, _ = build_finetuner(
        config(), SCHEMA, 1
    )  # 3 x 16 x 16 -> 4 channels, halved -> 8 channels, halved -> 3 classes
    model.train()
    assert macs(model, (16, 16)) == 16 * 16 * 4 * 3 * 9 + 8 * 8 * 8 * 4 * 9 + 8 * 3
    assert params(model) == (4 * 3 * 9 + 2 * 4) + (8 * 4 * 9 + 2 * 8) + (8 * 3 + 3)
    assert model.training and torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_published_costs(name: str, config: Callable[..., DictConfig]) -> None:
    """Equal to torchvision's tables for networks with 1000 classes; attention is counted too."""
    model, _ = build_finetuner(config(f"backbone.name={name}", "data.image_size=224", base=[]), SCHEMA, 1, load=False)
    published = models.get_model_weights(name).DEFAULT.meta
    width = model.backbone.embedding_dim
    assert round((macs(model, (224, 224)) + 997 * width) / 1e9, 3) == published["_ops"]
    assert params(model) + 997 * (width + 1) == published["num_params"]
