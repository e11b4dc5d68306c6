"""EoMT of transformers against ours, filled from the folder that the library saves."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from library_steps import train_both
from torch import Tensor, nn

from visiontune.config.compose import config_dir, train_config
from visiontune.config.launch import Launch
from visiontune.data import TaskInfo
from visiontune.data.frames import Frame
from visiontune.errors import UserError
from visiontune.models.backbones import build
from visiontune.models.features import FeatureShape
from visiontune.models.finetuner import FineTuner
from visiontune.models.heads import SegmentationHead
from visiontune.training.build import build_finetuner
from visiontune.training.resolve import resolve

SIDE, CLASSES = 64, 133
BLOCKS = {"hidden_size": 32, "num_attention_heads": 2, "num_register_tokens": 2}
QUERIES = {"num_blocks": 2, "num_queries": 7, "num_attention_heads": 2, "train_num_points": 200}


def library_model(masked: float) -> Any:
    """The library's model with random weights that differ everywhere.

    Args:
        masked: the probability that a query attends only to its mask.
    """
    torch.manual_seed(0)
    config = transformers.EomtConfig(**BLOCKS | QUERIES, num_hidden_layers=5, image_size=SIDE, num_labels=CLASSES)
    model = transformers.EomtForUniversalSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        for layer in (model.class_predictor, model.mask_head.fc3):  # queries and pixels differ
            layer.weight.mul_(6)
        model.attn_mask_probs.fill_(masked)
    return model


def our_model(folder: Path, classes: list[str], *overrides: str) -> tuple[FineTuner, str]:
    values = [f"++backbone.{key}={value}" for key, value in (BLOCKS | {"num_hidden_layers": 3}).items()]
    values += [f"++heads.segmentation.transformer.{key}={value}" for key, value in QUERIES.items()]
    keys = ["pretrained=eomt_small", "heads=segmentation", "data=digit_scenes", "trainer=cpu"]
    keys += [f"data.image_size={SIDE}", f"pretrained.weights={folder}"]
    cfg = resolve(train_config([*keys, *values, *overrides]), Launch())
    torch.manual_seed(1)
    model, report = build_finetuner(cfg, {"segmentation": TaskInfo("segmentation", classes)}, epochs=1, download=False)
    return model, str(report)


def coco_classes() -> list[str]:
    return yaml.safe_load((config_dir() / "pretrained" / "eomt_small.yaml").read_text())["pretrained"]["classes"]


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["annealed", "masked"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, FineTuner, Path]:
    """The library's model, ours with the same 133 classes, and the folder of the weights."""
    folder = tmp_path_factory.mktemp("eomt")
    library = library_model(request.param)
    library.save_pretrained(folder)
    ours, report = our_model(folder, coco_classes())
    assert "100.0% of the parameters loaded" in report and "missing" not in report and "not used" not in report
    return library.eval(), ours.eval(), folder


def normalize(image: Tensor) -> Tensor:
    return (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def test_equals_library(pair: Any) -> None:
    library, ours, _ = pair
    head: Any = ours.heads["segmentation"]
    image = images()
    with torch.no_grad():
        expected, raw = library(normalize(image)), ours(image)["segmentation"]
    torch.testing.assert_close(raw["masks"], expected.masks_queries_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(raw["classes"], expected.class_queries_logits, rtol=0, atol=1e-5)
    processor = transformers.EomtImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE})
    sizes = [(50, 90), (64, 64)]
    maps = processor.post_process_semantic_segmentation(expected, sizes, return_segmentation_scores=True)
    frames = [Frame(size, (0, 0, SIDE, SIDE)) for size in sizes]
    for prediction, reference in zip(head.decode(raw, frames), maps, strict=True):
        near = reference.segmentation_scores.topk(2, 0).values.diff(dim=0)[0].abs() < 1e-5
        different = prediction["map"].long() != reference.segmentation
        assert prediction["map"].shape == reference.segmentation.shape and near.float().mean() < 0.01
        assert not (different & ~near).any() and len(reference.segmentation.unique()) > 1
        assert 0 < prediction["confidence"] < 1


def test_loss_and_steps_equal_library(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with images of which one or (in the second step) both have no known pixel; the loss falls."""
    library, ours = (deepcopy(model).train() for model in pair[:2])
    # The library draws numbers also for a probability of 0, which would move the random points of the loss.
    draw_no_numbers = torch.random.fork_rng()(type(library)._disable_attention_mask)
    monkeypatch.setattr(type(library), "_disable_attention_mask", staticmethod(draw_no_numbers))
    head: Any = ours.heads["segmentation"]
    none = torch.full((SIDE, SIDE), 255)
    target = none.clone()
    target[:20], target[20:40, 8:], target[50:] = 0, 132, 17
    labels = torch.tensor([0, 17, 132])
    masks = (target == labels[:, None, None]).float()

    def library_loss(step: int) -> Tensor:
        counts = (0, 0) if step == 1 else (3, 0)
        objects = {"mask_labels": [masks[:n] for n in counts], "class_labels": [labels[:n] for n in counts]}
        return library(normalize(images()), **objects).loss

    def our_loss(step: int) -> Tensor:
        parts = head.loss(ours(images())["segmentation"], [none if step == 1 else target, none])
        assert set(parts) == {"loss_cross_entropy", "loss_mask", "loss_dice"}
        return torch.stack(list(parts.values())).sum()

    values = train_both((library, library_loss), (ours, our_loss), steps=4)
    assert values[-1] < values[0]
    for key, value in head.decoder.network.state_dict().items():
        if not key.startswith("layers"):
            torch.testing.assert_close(value, library.state_dict()[key], rtol=1e-4, atol=1e-5, msg=key)
    for i in range(5):
        layer = ours.backbone.model.layers[i] if i < 3 else head.decoder.network.layers[i - 3]
        torch.testing.assert_close(
            nn.utils.parameters_to_vector(layer.parameters()),
            nn.utils.parameters_to_vector(library.layers[i].parameters()),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("pair", [0.0], indirect=True)
def test_losses_of_samples_and_missing_labels(pair: Any) -> None:
    """The loss of an image is the library's in evaluation, and equal at each call."""
    library, ours, _ = pair
    head: Any = ours.heads["segmentation"]
    target = torch.arange(SIDE * SIDE).view(SIDE, SIDE) // 1500
    raw = ours(images())["segmentation"]
    state = torch.get_rng_state()
    values = head.sample_loss(raw, [target, None])
    assert torch.equal(values.nan_to_num(-1), head.sample_loss(raw, [target, None]).nan_to_num(-1))
    assert torch.equal(state, torch.get_rng_state()) and values[1].isnan()
    for precision in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", precision):
            half = ours(images())["segmentation"]
        torch.testing.assert_close(head.sample_loss(half, [target, None])[0], values[0], rtol=0.02, atol=0.05)
    masks, labels = torch.stack([target == label for label in range(3)]).float(), torch.arange(3)
    torch.manual_seed(0)
    expected = library(normalize(images()[:1]), mask_labels=[masks], class_labels=[labels]).loss
    torch.testing.assert_close(values[0], expected)
    (nothing,) = head.loss(raw, [None, None]).values()
    gradients = torch.autograd.grad(nothing, list(head.parameters()))
    assert nothing == 0 and all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("pair", [0.0], indirect=True)
def test_kept_rows_and_another_size(pair: Any) -> None:
    """Rows of person and auto are those of the weights; position embeddings are interpolated to another grid."""
    library, _, folder = pair
    keys = ("pretrained.map={auto: car}", "data.image_size=[32,96]", "++heads.segmentation.transformer.num_queries=5")
    ours, report = our_model(folder, ["person", "unicorn", "auto"], *keys)
    assert "kept rows: person, auto; fresh: unicorn" in report
    assert "position_embeddings.weight (16, 32) -> (12, 32), adapted" in report
    assert "query.weight (7, 32) -> (5, 32), 5 queries kept" in report
    network: Any = ours.heads["segmentation"].decoder.network
    for name in ("weight", "bias"):
        old, new = getattr(library.class_predictor, name), getattr(network.class_predictor, name)
        assert torch.equal(new[[0, 2, 3]], old[[0, 2, CLASSES]]) and torch.equal(new[1], old[:CLASSES].mean(0))
    assert torch.equal(network.query.weight, library.query.weight[:5])
    assert [*ours.heads["segmentation"].class_rows()] == [
        f"decoder.network.class_predictor.{name}" for name in ("weight", "bias")
    ]
    with torch.no_grad():
        raw = ours(torch.rand(1, 3, 32, 96))["segmentation"]
    assert raw["masks"].shape == (1, 5, 8, 24) and raw["classes"].shape == (1, 5, 4)


@pytest.mark.parametrize("pair", [0.0], indirect=True)
def test_stages_and_distillation(pair: Any) -> None:
    _, ours, _ = pair
    names = [name for name, _ in ours.stages()]
    assert names == ["stem", "blocks_0", "blocks_1", "blocks_2", "heads"]
    parameters = [parameter for _, stage in ours.stages() for parameter in stage.parameters()]
    assert {*map(id, parameters)} == {*map(id, ours.parameters())} and len(parameters) == len(set(parameters))
    features = ours.backbone(images())
    assert [tuple(grid.shape) for grid in features.maps] == [(2, 32, 4, 4)] and features.embedding.shape == (2, 32)
    assert features.prefix.shape == (2, 3, 32) and ours.backbone.shape.prefix_tokens == 3
    graph = [name for name in ours(images())["segmentation"] if name not in ours.heads["segmentation"].training_only]
    assert graph == ["classes", "masks"]
    head = ours.heads["segmentation"]
    student = SegmentationHead(ours.backbone.shape, TaskInfo("segmentation", coco_classes()), channels=8)
    with torch.no_grad():
        raw, features = ours(images())["segmentation"], ours.backbone(images())
        assert head.distill(raw, head, raw, 2.0).abs() < 1e-6
        assert 0 < student.distill(student(features), head, raw, 2.0) < 20


@pytest.mark.slow
def test_export() -> None:
    """A graph for any number of images, of a model whose queries attend to their masks."""
    backbone, _ = build("eomt", weights=None, image_size=32, num_hidden_layers=1, **BLOCKS)
    options = {"num_blocks": 1, "num_queries": 3, "num_attention_heads": 2}
    head = SegmentationHead(backbone.shape, TaskInfo("segmentation", ["a", "b"]), decoder="eomt", transformer=options)
    model, image = nn.Sequential(backbone, head).eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        dims = [{0: torch.export.Dim("batch", max=99)}]
        program = torch.export.export(model, (image[:2],), dynamic_shapes=dims).module()
        torch.testing.assert_close(program(image), model(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pair", [0.0], indirect=True)
def test_refusals(pair: Any) -> None:
    _, ours, folder = pair
    with pytest.raises(
        UserError, match=r"built for images of 64x64 pixels, got 64x96; write data.image_size=\[64,96\]"
    ):
        ours(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match=r"segmentation.loss has no effect on decoder=eomt: write .*loss=ce\+dice"):
        our_model(folder, ["a", "b"], "heads.segmentation.loss=dice")
    for options, words in (
        ({"image_size": 72}, r"image_size=72x72 is no multiple of the 16-pixel patches of eomt; .*=\[64,64\]"),
        ({"num_blocks": 3}, "backbone.num_blocks: backbone.name=eomt has no such argument; leave num_blocks out"),
        ({"hidden_size": 33}, "backbone.name=eomt cannot be built with"),
    ):
        with pytest.raises(UserError, match=words):
            build("eomt", weights=None, **BLOCKS | options)
    info = TaskInfo("segmentation", ["a", "b"])
    for shape, keys, words in (
        (ours.backbone.shape, {"num_labels": 3}, "transformer.num_labels: decoder=eomt has no such argument"),
        (ours.backbone.shape, {"num_attention_heads": 5}, "transformers cannot build this decoder"),
        (FeatureShape([32], [16], 32), {}, "needs that backbone; write pretrained=eomt_small"),
    ):
        with pytest.raises(UserError, match=words):
            SegmentationHead(shape, info, decoder="eomt", transformer=keys)
    with pytest.raises(UserError, match=r"heads.segmentation.transformer is an option of decoder=eomt"):
        SegmentationHead(ours.backbone.shape, info, decoder="fpn", transformer={})
    network: Any = deepcopy(ours.heads["segmentation"].decoder.network)
    state = network.state_dict() | {"attn_mask_probs": torch.tensor([0.0, 0.5])}
    with pytest.raises(UserError, match=r"attn_mask_probs=\[0.0, 0.5\], from the middle of their training"):
        network.load_state_dict(state)
