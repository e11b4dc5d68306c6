"""RF-DETR and RF-DETR-Seg of transformers against ours, filled from the folder that the library saves."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from library_steps import train_both
from running import mostly_slow
from torch import Tensor
from torchvision.ops import box_convert

from visiontune.config.compose import train_config
from visiontune.config.launch import Launch
from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.data.geometry import eval_frame
from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.models.features import FeatureShape
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import DetectionHead, InstancesHead, rf_detr
from visiontune.training.build import build_finetuner, build_head
from visiontune.training.resolve import resolve

SIDES = (64, 96, 80, 112, 128)
MODELS = {"rf_detr_nano": "detection", "rf_detr_seg_nano": "instances"}
BACKBONE = {"hidden_size": 24, "num_attention_heads": 2, "patch_size": 8, "num_windows": 2, "num_hidden_layers": 4}
SMALL = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_n_points": 2,
    "num_queries": 12,
    "group_detr": 3,
    "decoder_ffn_dim": 48,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "intermediate_size": 48,
    "dropout": 0.0,
}
NAMES = [f"c{i}" for i in range(91)]


def library_model(name: str) -> Any:
    task = MODELS[name]
    torch.manual_seed(0)
    backbone = BACKBONE | {"model_type": "rf_detr_dinov2", "image_size": 64, "out_indices": [1, 2, 3, 4]}
    weight = {} if task == "detection" else {"class_loss_coefficient": 5.0}
    config = transformers.RfDetrConfig(**SMALL, **weight, num_labels=91, backbone_config=backbone)
    suffix = "ObjectDetection" if task == "detection" else "InstanceSegmentation"
    model = getattr(transformers, f"RfDetrFor{suffix}")(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.add_((0.3 if "class_embed" in key else 0.03) * torch.randn_like(parameter))
    return model


def our_model(name: str, folder: Path, classes: list[str], *overrides: str) -> tuple[FineTuner, str]:
    task = MODELS[name]
    values = [f"++backbone.{key}={value}" for key, value in BACKBONE.items()]
    values += [f"++heads.{task}.transformer.{key}={value}" for key, value in SMALL.items()]
    values += ["backbone.out_indices=[1,2,3,4]", "backbone.pretraining_size=64", "data.image_size=64"]
    keys = [f"pretrained={name}", f"heads={task}", "data=digit_scenes", "trainer=cpu", f"pretrained.weights={folder}"]
    cfg = resolve(train_config([*keys, *values, *overrides]), Launch())
    torch.manual_seed(1)
    model, report = build_finetuner(cfg, {task: TaskInfo(task, classes)}, epochs=1, download=False)
    return model, str(report)


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, FineTuner, str, Path]:
    """The library's model, ours with as many classes, its name and the folder of its weights."""
    folder = tmp_path_factory.mktemp(request.param)
    library = library_model(request.param)
    library.save_pretrained(folder)
    ours, report = our_model(request.param, folder, NAMES, f"pretrained.classes=[{','.join(NAMES)}]")
    assert "100.0% of the parameters loaded" in report
    return library.eval(), ours.eval(), request.param, folder


def make_targets(side: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """The labels of two images as the library wants them, and as ours does; the second image has no objects."""
    boxes = torch.tensor([[0.25, 0.375, 0.25, 0.25], [0.625, 0.5, 0.375, 0.25], [0.5, 0.75, 0.125, 0.125]])
    labels = torch.tensor([1, 3, 90])
    masks = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) > 0.5
    corners = box_convert(boxes, "cxcywh", "xyxy") * side
    crowd = torch.zeros(3, dtype=torch.bool)
    library = [{"class_labels": labels[:n], "boxes": boxes[:n], "masks": masks[:n]} for n in (3, 0)]
    rows = [{"labels": labels[:n], "boxes": corners[:n], "masks": masks[:n], "crowd": crowd[:n]} for n in (3, 0)]
    return library, rows


def test_equals_library(pair: Any) -> None:
    library, ours, name, _ = pair
    head: Any = ours.heads[MODELS[name]]
    processor = transformers.RfDetrImageProcessor()
    for side in SIDES:
        image = torch.rand(2, 3, side, side)
        with torch.no_grad():
            expected = library((image - ours.backbone.mean) / ours.backbone.std)
            raw = ours(image)[MODELS[name]]
            outputs = head.detector.predict(raw)
        torch.testing.assert_close(outputs["logits"], expected.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(outputs["boxes"] * side, expected.pred_boxes * side, rtol=0, atol=1e-3)
        objects = processor.post_process_object_detection(expected, threshold=0.05, target_sizes=[(side, side)] * 2)
        # An image of another shape, squashed to the input.
        squashed = [(50, 90), (33, 41)]
        whole = [Frame.whole(side, side)] * 2
        for one, other in zip(objects, head.decode(raw, whole), strict=True):
            count = len(one["scores"])
            assert count == 12
            torch.testing.assert_close(other["scores"][:count], one["scores"], rtol=0, atol=1e-5)
            torch.testing.assert_close(other["boxes"][:count], one["boxes"].clamp(0, side), rtol=0, atol=1e-3)
            assert other["labels"][:count].tolist() == one["labels"].tolist()
        if MODELS[name] == "instances":
            torch.testing.assert_close(outputs["mask_logits"], expected.pred_masks, rtol=0, atol=1e-5)
            segments = processor.post_process_instance_segmentation(
                expected, threshold=0.05, target_sizes=squashed, return_binary_maps=True
            )
            frames = [eval_frame("squash", size, (side, side)) for size in squashed]
            for one, other, size in zip(segments, head.decode(raw, frames), squashed, strict=True):
                maps = one["segmentation"]
                assert other["masks"][: len(maps)].shape == (12, *size) and maps.any() and not maps.all()
                assert (other["masks"][: len(maps)] != maps.bool()).float().mean() < 1e-3


@pytest.mark.parametrize("steps", mostly_slow([1, 10], 1))
def test_loss_and_steps_equal_library(pair: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with all groups of queries; masks are compared at random points."""
    monkeypatch.setattr(rf_detr, "PART", 5)  # of the three objects' matches with the queries of all groups
    # The copy of ours is as the one for the average of the weights.
    library, ours = (deepcopy(model).train() for model in pair[:2])
    task = MODELS[pair[2]]
    head: Any = ours.heads[task]

    def draw(step: int) -> tuple[Tensor, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        side = SIDES[step % len(SIDES)]
        return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(step)), *make_targets(side)

    def library_loss(step: int) -> Tensor:
        image, labels, _ = draw(step)
        return library((image - ours.backbone.mean) / ours.backbone.std, labels=labels).loss

    def our_loss(step: int) -> Tensor:
        image, _, targets = draw(step)
        return torch.stack(list(head.loss(ours(image)[task], targets).values())).sum()

    train_both((library, library_loss), (ours, our_loss), steps, max_norm=1.0)
    prefix = "model." if task == "detection" else "model.model."
    weights = library.state_dict()
    for key, value in ours.backbone.model.state_dict().items():
        torch.testing.assert_close(value, weights[f"{prefix}backbone.backbone.{key}"], rtol=1e-4, atol=1e-4, msg=key)
    for key, value in head.detector.network.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-4, atol=1e-4, msg=key)


def test_images_without_objects(pair: Any) -> None:
    """The library's loss of masks has no value for them; the class loss is its own."""
    library, ours, name, _ = pair
    image, (labels, targets) = torch.rand(2, 3, 64, 64), make_targets(64)
    head: Any = ours.heads[MODELS[name]]
    with torch.no_grad():
        losses = head.loss(ours(image)[MODELS[name]], [targets[1]] * 2)
        assert losses["loss_ce"] > 0
        assert {float(value) for key, value in losses.items() if key != "loss_ce"} == {0.0}
        if MODELS[name] == "detection":
            expected = (
                deepcopy(library).train()((image - ours.backbone.mean) / ours.backbone.std, labels=[labels[1]] * 2).loss
            )
            torch.testing.assert_close(losses["loss_ce"], expected, rtol=1e-4, atol=1e-6)


def test_kept_rows(pair: Any) -> None:
    """Row 1 is person and row 3 is car, in the encoder's outputs of every group as well. 12 of 15 queries are kept."""
    library, _, name, folder = pair
    task = MODELS[name]
    keys = ["pretrained.map={auto: car}", f"++heads.{task}.transformer.num_queries=15"]
    ours, report = our_model(name, folder, ["person", "unicorn", "auto"], *keys)
    assert "kept rows: person, auto; fresh: unicorn" in report
    head: Any = ours.heads[task]
    weights, state = library.state_dict(), head.state_dict()
    assert len(head.class_rows()) == 2 * (1 + 3)
    categories = train_config([f"pretrained={name}"]).pretrained.classes
    known = [i for i, label in enumerate(categories) if label.lower() not in ("background", "n/a")]
    assert len(known) == 80
    for key in head.class_rows():
        value, expected = state[key], weights[key.removeprefix("detector.network.")]
        assert torch.equal(value[[0, 2]], expected[[1, 3]]) and torch.equal(value[1], expected[known].mean(0))
    for layer in (name for name in weights if name.endswith(("query_feat.weight", "point_embed.weight"))):
        old, new = weights[layer], state[f"detector.network.{layer}"]
        assert torch.equal(new.unflatten(0, (3, 15))[:, :12], old.unflatten(0, (3, 12)))
        assert f"{layer} {tuple(old.shape)} -> {tuple(new.shape)}, 12 queries kept" in report


def test_refusals() -> None:
    with pytest.raises(
        UserError, match=r"data.image_size=\[100, 100\].*square.*multiple of 16; write data.image_size=96"
    ):
        our_model("rf_detr_nano", Path(), ["a"], "data.image_size=100", "pretrained.weights=null")
    features = FeatureShape([8, 16], [8, 16], 16)
    for head, task, other in ((DetectionHead, "detection", "rt_detr_v2"), (InstancesHead, "instances", "mask_rcnn")):
        with pytest.raises(
            UserError, match=rf"needs maps of one stride and width.*write heads.{task}.detector={other}"
        ):
            head(features, TaskInfo(task, ["a"]), detector="rf_detr")


def test_a_backbone_has_a_map_after_each_quarter_of_its_blocks() -> None:
    """So that all blocks train."""
    backbone, _ = build("rf_detr_dinov2", weights=None, **BACKBONE | {"num_hidden_layers": 8})
    assert [name for name, _ in backbone.stages()] == ["stem", *(f"blocks_{i}_to_{i + 1}" for i in (0, 2, 4, 6))]
    assert backbone.model.config.out_indices == [2, 4, 6, 8]


def test_a_mask_of_a_padded_image() -> None:
    """The lower half of a mask is set; the image lies in rows 16 to 48 of an input of 64 pixels."""
    logits = torch.full((1, 16, 16), -5.0)
    logits[:, 8:] = 5.0
    config = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 8, "num_windows": 1}
    backbone, _ = build("rf_detr_dinov2", weights=None, library="transformers", out_indices=[1], **config)
    keys = [f"++heads.instances.transformer.{key}={value}" for key, value in SMALL.items()]
    cfg = train_config(["heads=instances", "data=digit_scenes", "heads.instances.detector=rf_detr", *keys])
    head: Any = build_head("instances", cfg.heads.instances, backbone.shape, TaskInfo("instances", ["a"]))
    frame = eval_frame("letterbox", (50, 100), (64, 64))
    mask = head._resize_masks(logits, frame)
    assert frame.inside == (16, 0, 32, 64) and mask.shape == (1, 50, 100)
    assert mask[0].float().mean(1).tolist() == [0.0] * 25 + [1.0] * 25
