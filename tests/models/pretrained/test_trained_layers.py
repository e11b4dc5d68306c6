"""Each strategy on small networks that are built like the pretrained families: what does not train keeps its values."""

import re
from copy import deepcopy
from functools import cache, partial
from itertools import product
from typing import Any

import every_strategy
import pytest
import torch
from running import mostly_slow
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from visiontune.data import TaskInfo
from visiontune.data.targets import LabelMap
from visiontune.models.backbones import build
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import DetectionHead, Head, InstancesHead, SegmentationHead
from visiontune.models.heads.class_rows import shared_parameters
from visiontune.optim import schedulers
from visiontune.strategies import HeadOnly, LastK
from visiontune.strategies.freezing import freeze, trains_parameter

SIDE = 64
CLASSES = ["person", "car", "dog"]
# These heads do not use the last stage, which computes the embedding.
STRATEGIES = every_strategy.STRATEGIES | {"last_k": partial(LastK, k=2)}
DETECTOR: dict[str, Any] = {"channels": 16, "norm": "none", "anchor_strides": "image"}
TWO_STAGE = DETECTOR | {"hidden": 16, "convs": 1, "proposals": 20, "candidates": 50, "samples": 16, "min_stride": 4}
FROZEN = {"norm": "frozen", "norm_eps": 1e-5, "return_layers": ["features.8", "features.12"]}
TRANSFORMER: dict[str, Any] = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_n_points": [2, 2, 2],
    "num_queries": 10,
    "num_denoising": 4,
    "hidden_expansion": 0.5,
    "depth_mult": 0.34,
}
SEGMENTER: dict[str, Any] = {"decoder": "deeplabv3", "norm": "batch", "atrous_rates": [1, 2, 3], "auxiliary": 0.5}
CLASS_EMBED = [f"decoder.class_embed.{i}" for i in range(TRANSFORMER["decoder_layers"])]
# Family -> class of the head, its options, options of the backbone, and its class layers.
FAMILIES: dict[str, tuple[type[Head], dict[str, Any], dict[str, Any], set[str]]] = {
    "one_stage": (
        DetectionHead,
        DETECTOR | {"detector": "retinanet", "convs": 1},
        FROZEN,
        {"detector.model.head.classification_head.cls_logits"},
    ),
    "two_stage": (
        DetectionHead,
        TWO_STAGE | {"detector": "faster_rcnn"},
        FROZEN,
        {"detector.roi.box_predictor.cls_score", "detector.roi.box_predictor.bbox_pred"},
    ),
    "masks": (
        InstancesHead,
        TWO_STAGE,
        FROZEN,
        {
            "detector.roi.box_predictor.cls_score",
            "detector.roi.box_predictor.bbox_pred",
            "detector.roi.mask_predictor.mask_fcn_logits",
        },
    ),
    "set": (
        DetectionHead,
        {"detector": "d_fine", "transformer": TRANSFORMER},
        FROZEN | {"return_layers": ["features.3", "features.8", "features.12"]},
        {f"detector.network.{layer}" for layer in ("enc_score_head", "denoising_class_embed", *CLASS_EMBED)},
    ),
    "segmenter": (
        SegmentationHead,
        SEGMENTER,
        {"dilated": True, "return_layers": ["features.3", "features.12"]},
        {"decoder.layers.4.1", "auxiliary.4.1"},
    ),
}


@cache
def build_parts(family: str) -> tuple[Any, Head]:
    """Backbone and head; tests copy them."""
    head, options, backbone, _ = FAMILIES[family]
    torch.manual_seed(0)
    network, _ = build("mobilenet_v3_small", library="torchvision", weights=None, **backbone)
    for name, tensor in network.state_dict().items():  # so that no activation vanishes
        if name.endswith("running_var"):
            tensor.fill_(0.05)
        elif name.endswith("bias"):
            tensor.uniform_(0.0, 0.5)
    info = TaskInfo({"masks": "instances", "segmenter": "segmentation"}.get(family, "detection"), CLASSES)
    return network, head(network.shape, info, **options)


def target() -> dict[str, Any]:
    boxes = BoundingBoxes(  # type: ignore[call-overload]
        [[8.0, 8.0, 40.0, 40.0], [20.0, 10.0, 60.0, 50.0]], format=BoundingBoxFormat.XYXY, canvas_size=(SIDE, SIDE)
    )
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[:, 20:30, 20:30] = True
    return {"boxes": boxes, "labels": torch.tensor([0, 2]), "crowd": torch.zeros(2).bool(), "masks": Mask(masks)}


def draw(family: str) -> tuple[Tensor, list[Any]]:
    """Two images and their targets; one of them has no objects."""
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if family == "segmenter":
        return images[..., :32, :32], [LabelMap(torch.zeros(32, 32, dtype=torch.uint8)), None]
    objects = target()
    return images, [objects, {name: value[:0] for name, value in objects.items()}]


def assemble(family: str, strategy: Any, epochs: int = 2) -> FineTuner:
    backbone, head = deepcopy(build_parts(family))
    names = [*(name for name, _ in backbone.stages()), "heads"]
    built = strategy(stages=names, epochs=epochs)
    built.prepare(backbone.model)
    built.prepare_heads(shared_parameters(head, head.class_rows()))
    optimizer = partial(torch.optim.Adam, lr=1e-3)  # moves whatever has a gradient, however small
    return FineTuner(backbone, {"task": head}, optimizer, partial(schedulers.constant), built)


def step(model: FineTuner, family: str) -> set[str]:
    """A training step; the names of the tensors that it changes."""
    images, targets = draw(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = model.build_optimizer()
    torch.manual_seed(2)
    head: Any = model.heads["task"]
    loss = torch.stack(list(head.loss(model(images)["task"], targets).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


QUICK = [*product(["head_only"], FAMILIES), ("gradual_unfreeze", "two_stage"), ("lora", "one_stage")]
ALL = [*QUICK, *product(STRATEGIES, ["two_stage", "set", "segmenter"])]


@pytest.mark.parametrize(("name", "family"), mostly_slow(dict.fromkeys(ALL), *QUICK))
def test_what_does_not_train_keeps_its_value(name: str, family: str) -> None:
    model = assemble(family, STRATEGIES[name])
    strategy = model.strategy
    owners = {
        id(parameter): (stage, part, key)
        for stage, module in model.stages()
        for part in module.modules()
        for key, parameter in part.named_parameters(recurse=False)
    }
    parameters = {path: owners[id(parameter)] for path, parameter in model.named_parameters()}
    for epoch in range(2):
        model.train()
        freeze(model.stages(), strategy, epoch)
        moved = step(model, family)
        expected = {
            path
            for path, (stage, part, key) in parameters.items()
            if stage in strategy.trainable(epoch) and trains_parameter(strategy, stage, part, key)
        }
        assert moved & parameters.keys() <= expected
        # These may have no gradient: the embedding, which no head uses; saturated gates; an adapter's `A` at its start.
        still = {path for path in expected - moved if not re.search(r"model\.classifier\.|\.fc[12]\.|lora_A", path)}
        assert len(still) <= 0.05 * len(expected), still
        statistics = {path for path in moved - parameters.keys() if not path.endswith("num_batches_tracked")}
        assert all(path.startswith("heads.") for path in statistics)
        if name == "head_only":
            layers = {f"heads.task.{layer}.{part}" for layer in FAMILIES[family][3] for part in ("weight", "bias")}
            assert moved == layers & parameters.keys()
            assert statistics == set()


def test_frozen_layers_of_a_head_give_the_outputs_of_evaluation() -> None:
    """They apply no dropout and use no statistics of the batch."""
    model = assemble("segmenter", HeadOnly)
    head: Any = model.heads["task"]
    inputs = []
    before_dropout = head.decoder.layers[4][0]
    before_dropout.register_forward_hook(lambda module, arguments, _: inputs.append((module.training, arguments[0])))
    images, _ = draw("segmenter")
    for training in (True, False):
        model.train(training)
        if training:
            freeze(model.stages(), model.strategy, 0)
        model(images)
    assert [mode for mode, _ in inputs] == [True, False]  # the dropout before the class layer itself is applied
    assert torch.equal(inputs[0][1], inputs[1][1])
